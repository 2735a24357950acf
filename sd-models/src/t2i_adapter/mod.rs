//! T2I-Adapter (Mou et al. 2023, arXiv:2302.08453): a small network that sees a picture alone, once a
//! run, and adds to what a U-Net's blocks make on the way down.

mod config;
mod files;
mod model;
mod single_file;

pub use config::{AdapterType, T2IAdapterConfig};
pub use files::{T2IAdapter, T2IAdapterFiles};
pub use model::T2IAdapterModel;
