//! The networks of Stable Diffusion on Burn, and the files they load from.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod clip;
mod config;
mod error;
mod files;
pub mod layers;
mod tokenizer;
pub mod unet;
pub mod vae;
mod weights;

pub use clip::{Activation, ClipOutput, ClipTextConfig, ClipTextEncoder, ClipTextModel};
pub use config::ConfigFile;
pub use error::{Error, Misshapen, Result, TensorMismatch};
pub use files::{EmbeddedFile, Files};
pub use tokenizer::{ClipTokenizer, Tokens};
pub use weights::Weights;
