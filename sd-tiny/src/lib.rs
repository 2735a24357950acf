//! A trained latent-diffusion model of 9 MB that is part of your program.
//!
//! It has Stable Diffusion's structure in every detail (CLIP text encoder, U-Net with
//! cross-attention, VAE of factor 8) and draws 128×128 pictures of coloured solids, so that
//! examples and tests need no download:
//!
//! ```no_run
//! use sd_pipeline::{Request, device};
//!
//! # fn main() -> sd_pipeline::Result<()> {
//! let pipeline = sd_tiny::pipeline(&device("flex")?)?;
//! let request = Request {
//!     steps: 20,
//!     guidance_scale: 5.0,
//!     ..Request::new("a red cube on top of a blue sphere")
//! };
//! let picture = &pipeline.generate(&request)?[0];
//! # Ok(())
//! # }
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]

use sd_pipeline::models::{EmbeddedFile, Files};
use sd_pipeline::{Device, OpenOptions, Pipeline, Result};

/// A prompt that shows what the model can do.
pub const PROMPT: &str = "a red cube on top of a blue sphere";

macro_rules! embed {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../model/", $name)))),*]
    };
}

const FILES: &[EmbeddedFile] = embed![
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
];

/// The model's files, in diffusers layout.
pub fn files() -> Files {
    Files::embedded(FILES)
}

/// The model, opened in f32 on `device` with its own scheduler.
///
/// # Errors
/// Those of [`Pipeline::from_files`], none of which the embedded files cause by themselves.
pub fn pipeline(device: &Device) -> Result<Pipeline> {
    Pipeline::from_files(&files(), &OpenOptions::new(device))
}
