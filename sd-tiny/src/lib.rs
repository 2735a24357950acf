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
//!     seed: 7,
//!     ..sd_tiny::request("a red cube on top of a blue sphere")
//! };
//! let picture = &pipeline.generate(&request)?[0];
//! # Ok(())
//! # }
//! ```
//!
//! As a test kit: `cargo add --dev sd-tiny`. Within a minor version the model stays the same, and
//! so does what it draws: from one request, no byte of the picture moves by more than 2, on any
//! CPU. The last bits of a sum depend on the processor, so compare pictures with that tolerance
//! (`tests/stable.rs` does) and not by hash. The feature `micro` adds random-weight models of every
//! family, to test on them that a program opens what its users have.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "micro")]
#[cfg_attr(docsrs, doc(cfg(feature = "micro")))]
pub mod micro;

use std::borrow::Cow;

use sd_pipeline::models::{EmbeddedFile, Files};
use sd_pipeline::{Device, LatentRgb, OpenOptions, Pipeline, Prompt, Request, Result};

/// A prompt that shows what the model can do.
pub const PROMPT: &str = "a red cube on top of a blue sphere";

/// Steps enough for a finished picture with every scheduler of the common ones.
pub const STEPS: usize = 20;

/// The guidance scale that the model draws best with. It obeys its prompt nearly without guidance
/// already; from 3 on, PNDM diverges at [`STEPS`] steps.
pub const GUIDANCE_SCALE: f64 = 2.0;

/// Colours of the model's latents: what [`LatentRgb::fit`] finds for pictures that it draws
/// (`tests/editing/previews.rs`).
pub const LATENT_RGB: LatentRgb = LatentRgb {
    factors: Cow::Borrowed(&[
        [-0.1627, 0.1299, -0.0623],
        [0.2775, 0.1958, 0.1160],
        [0.2616, -0.0160, -0.0896],
        [0.0957, 0.0176, 0.1561],
    ]),
    bias: [0.0085, 0.1063, 0.1260],
};

macro_rules! embed {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../model/", $name)))),*]
    };
}

/// Names and bytes of the model's files, in diffusers layout: what [`files`] has, for programs that change
/// some of them first.
pub const FILES: &[EmbeddedFile] = embed![
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
    open(&OpenOptions::new(device))
}

/// The model, opened as `options` say, with its own [colours](LATENT_RGB) for previews.
///
/// # Errors
/// Those of [`Pipeline::from_files`].
pub fn open(options: &OpenOptions) -> Result<Pipeline> {
    let mut pipeline = Pipeline::from_files(&files(), options)?;
    pipeline.latent_rgb = Some(LATENT_RGB);
    Ok(pipeline)
}

/// A request for `prompt` with the settings that suit the model: [`STEPS`] and
/// [`GUIDANCE_SCALE`].
pub fn request(prompt: impl Into<Prompt>) -> Request {
    Request {
        steps: STEPS,
        guidance_scale: GUIDANCE_SCALE,
        ..Request::new(prompt)
    }
}
