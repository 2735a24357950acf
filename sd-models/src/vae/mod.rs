//! The autoencoder: pixels to latents and back.
//!
//! [`Vae`] is the [`Autoencoder`](sd_core::Autoencoder) that opens from a folder;
//! [`AutoencoderKL`] is the bare network, built from a [`VaeConfig`].

mod autoencoder;
mod blocks;
mod config;
mod decoder;
mod encoder;
mod model;
mod tiling;

pub use autoencoder::{Vae, VaeFiles};
pub use blocks::{DownEncoderBlock2D, MidBlock, UpDecoderBlock2D};
pub use config::VaeConfig;
pub use decoder::Decoder;
pub use encoder::Encoder;
pub use model::{AutoencoderKL, Posterior};
pub use tiling::{Limits, Plan, StripRows, Tiling, Work};
