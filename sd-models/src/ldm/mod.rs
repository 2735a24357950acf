//! The single-file layout: names and shapes of the original code's checkpoints
//! (CompVis/latent-diffusion, Stability-AI/generative-models), beside diffusers'.
//!
//! A [`Layout`] is a table of one component's tensors, built from its configuration. Both
//! directions, where diffusers' tensor lies in the file and which of diffusers' tensors are in one
//! of the file's, are read from the same rows, so neither can disagree with the other.
//!
//! ```
//! use sd_models::ldm::{self, Layout, Storage};
//! # use sd_models::{ClipTextConfig, ConfigFile};
//! # let file = serde_json::json!({"num_hidden_layers": 23});
//! # let file = ConfigFile::new("config.json", file.as_object().cloned().unwrap_or_default());
//! # let config = ClipTextConfig::from_file(&file)?;
//! let layout = Layout::open_clip(&config).under(ldm::TEXT);
//! let place = layout.in_file("encoder.layers.0.self_attn.k_proj.bias").ok_or("no tensor")?;
//! assert_eq!(
//!     place.name,
//!     "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias"
//! );
//! // The second of three equal parts: the keys of queries, keys and values.
//! assert_eq!(place.storage, Storage::Rows { part: 1, of: 3 });
//! assert_eq!(place.storage.rows(3 * 1024), 1024..2048);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod clip;
mod controlnet;
mod layout;
mod open_clip;
mod storage;
mod t2i_adapter;
mod tiny;
mod unet;
mod vae;

pub use layout::{Layout, Place};
pub use storage::Storage;
pub use unet::Numbering;

/// The prefix of a U-Net's tensors.
pub const UNET: &str = "model.diffusion_model";
/// The prefix of a ControlNet's tensors.
pub const CONTROLNET: &str = "control_model";
/// The prefix of an autoencoder's tensors.
pub const VAE: &str = "first_stage_model";
/// The prefix of a text encoder's tensors in the files of Stable Diffusion 1 and 2.
pub const TEXT: &str = "cond_stage_model";

/// The prefix of the text encoder of number `index` in files that may hold several, as those of
/// SDXL and its refiner.
pub fn embedder(index: usize) -> String {
    format!("conditioner.embedders.{index}")
}
