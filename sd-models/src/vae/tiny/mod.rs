//! The tiny autoencoder: convolutions alone, a thirtieth of the work.
//!
//! [`TinyVae`] is the [`Autoencoder`](sd_core::Autoencoder) that opens from a folder;
//! [`AutoencoderTiny`] is the bare network, built from a [`TinyVaeConfig`].

mod autoencoder;
mod config;
mod network;

pub use autoencoder::{TinyVae, TinyVaeFiles};
pub use config::TinyVaeConfig;
pub use network::AutoencoderTiny;
