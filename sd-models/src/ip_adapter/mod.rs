//! IP-Adapter (Ye et al. 2023, arXiv:2308.06721): pictures as prompts.
//!
//! A picture goes through CLIP's tower of pictures; a small network makes a few tokens of what the
//! tower sees, as wide as a prompt's (`projection`, `resampler`); and each layer of cross-attention
//! has keys and values for them (`model`). These do not change over a run, so they are made once, and
//! the U-Net is handed them ([`DecoupledAttention`](crate::unet::DecoupledAttention)): it knows
//! nothing of pictures.

mod config;
mod files;
mod model;
mod projection;
mod resampler;

pub use config::{IpAdapterConfig, ProjectionConfig};
pub(crate) use config::{family_of, is_face_id};
pub use files::IpAdapterFiles;
pub use model::IpAdapterModel;

#[cfg(all(test, feature = "flex"))]
mod tests;
