//! ControlNet (Zhang et al. 2023, arXiv:2302.05543): a copy of a U-Net's way down that also sees a
//! picture, and adds to what the U-Net keeps.
//!
//! [`ControlNetFiles`] opens a folder or a file, [`ControlNet`] is the network beside a U-Net.

mod config;
mod control_lora;
mod files;
mod hint;
mod model;
mod prepared;
mod single_file;
mod union;

pub use config::{ControlNetConfig, UnionConfig};
pub use files::{ControlNet, ControlNetFiles};

pub(crate) use control_lora::MARK as CONTROL_LORA;
pub use model::{ControlNetContext, ControlNetModel};
