//! The U-Net: a noisy latent, a timestep and a prompt to a prediction of the noise.
//!
//! [`UNet`] is the [`Denoiser`](sd_core::Denoiser) that opens from a folder;
//! [`UNet2DConditionModel`] is the bare network, built from a [`UNetConfig`].

mod blocks;
mod cache;
mod class_label;
mod config;
mod control;
mod decoupled;
mod denoiser;
mod depths;
mod embedding;
mod footprint;
mod freeu;
mod model;
mod per_block;
mod perturbed;
mod prepared;
mod residuals;
mod stage;
mod supported;
mod token_mask;

pub use cache::StepCache;
pub use class_label::ClassLabel;
pub use config::{BlockConfig, MidBlock as MidBlockConfig, TextTimeConfig, TimeConfig, UNetConfig};
pub use control::{ControlNetwork, ControlSpec, Steering};
pub use decoupled::{CrossAttention, DecoupledAttention, DecoupledTokens, LayerScale};
pub use denoiser::{UNet, UNetFiles};
pub use embedding::timestep_embedding;
pub use footprint::UNetWork;
pub use freeu::{FreeU, FreeUPlaces};
pub use model::{UNet2DConditionModel, UNetContext, UNetEmbeddings};
pub use residuals::{PreparedAdapter, UNetAdapter, UNetAdapters, UNetResiduals};
pub use token_mask::TokenMask;

pub(crate) use blocks::{DownBlock, MidBlock, Pass, StageContext, keep, prepare, way_down};
pub(crate) use control::modules;
pub(crate) use embedding::TimestepEmbedding;
pub(crate) use prepared::{number_of_sizes, sizes};
pub(crate) use stage::StageConfig;

pub use crate::layers::{KeyValue, Padding, TimeEffect};
