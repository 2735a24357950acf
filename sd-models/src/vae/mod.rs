//! The autoencoder: pixels to latents and back.
//!
//! [`Vae`] is the [`Autoencoder`](sd_core::Autoencoder) that opens from a folder;
//! [`AutoencoderKL`] is the bare network, built from a [`VaeConfig`].

mod autoencoder;
mod blocks;
mod config;
mod decoder;
mod description;
mod encoder;
mod model;
mod strips;
mod tiling;
mod whole;

pub use autoencoder::{Vae, VaeFiles};
pub use config::VaeConfig;
use decoder::Decoder;
use encoder::Encoder;
pub use model::{AutoencoderKL, Posterior};
pub use tiling::{DecodePlan, Direction, Limits, StripRows, Tiling};
