//! The autoencoder: pixels to latents and back.
//!
//! [`Vae`] is the [`Autoencoder`](sd_core::Autoencoder) that opens from a folder;
//! [`AutoencoderKL`] is the bare network, built from a [`VaeConfig`]. [`TinyVae`] and
//! [`AutoencoderTiny`] are those of a far smaller network.

mod autoencoder;
mod blocks;
mod config;
mod decoder;
mod description;
mod encoder;
mod model;
mod scaling;
mod strips;
mod tiling;
mod tiny;
mod way;
mod whole;

pub use autoencoder::{Vae, VaeFiles};
pub use config::{LatentStatistics, VaeConfig};
use decoder::Decoder;
use encoder::Encoder;
pub use model::{AutoencoderKL, Posterior};
pub use tiling::{DecodePlan, Direction, Limits, StripRows, Tiling};
pub use tiny::{AutoencoderTiny, TinyVae, TinyVaeConfig, TinyVaeFiles};
