//! CLIP's text encoder (Radford et al. 2021, arXiv:2103.00020).

mod config;
mod layer;
mod model;

pub use config::{Activation, ClipTextConfig};
use layer::ClipLayer;
pub use model::{ClipOutput, ClipTextModel};
