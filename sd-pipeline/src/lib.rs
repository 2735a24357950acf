//! Stable Diffusion for Rust programs: prompt in, picture out, on any Burn backend.
//!
//! ```no_run
//! use sd_pipeline::{OpenOptions, Pipeline, Request, device};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = device("flex")?;
//! let pipeline = Pipeline::open("stable-diffusion-v1-5", &OpenOptions::new(&device))?;
//! let request = Request {
//!     steps: 25,
//!     seed: 42,
//!     ..Request::new("a lighthouse in a storm, oil on canvas")
//! };
//! let mut run = pipeline.start(&request)?;
//! for step in &mut run {
//!     let step = step?;
//!     println!("{}/{}", step.done, step.total);
//! }
//! run.images()?[0].save("lighthouse.png")?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Pipeline::generate`] is that loop in one call. A [`Pipeline`] is four components behind
//! `Arc<dyn …>`; assigning another one swaps it, for instance
//! `pipeline.scheduler = Arc::new(Euler::default())`.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod device;
mod error;
mod guard;
mod guidance;
mod kernel_cache;
mod latents;
mod memory;
mod on_demand;
mod open;
mod picture;
mod pipeline;
mod request;
mod run;
mod saved;
mod warm_up;

pub use device::{DeviceError, device, device_names, largest_buffer};
#[cfg(feature = "remote")]
#[cfg_attr(docsrs, doc(cfg(feature = "remote")))]
pub use device::{RemoteOptions, Traffic, remote_device, remote_traffic, serve};
#[cfg(feature = "wgpu")]
#[cfg_attr(docsrs, doc(cfg(feature = "wgpu")))]
pub use device::{wgpu_device, wgpu_setup};
pub use error::{Error, Result};
pub use kernel_cache::{KernelCacheError, kernel_cache};
pub use latents::{read_latents, write_latents};
pub use memory::{PhasePeaks, PipelineMemory};
pub use on_demand::Residency;
pub use open::{OpenOptions, Placement};
pub use picture::{image_from_pixels, write_png};
pub use pipeline::Pipeline;
pub use request::Request;
pub use run::{Progress, Run};
pub use warm_up::{WarmUp, WarmUpStage};

pub use burn;
pub use burn::tensor::{Device, FloatDType};
pub use image::RgbImage;
pub use sd_core::{
    Autoencoder, AutoencoderSpec, Conditioning, Denoiser, DenoiserSpec, Held, Level, Model, Noise,
    NoiseSchedule, Plan, Prediction, PredictionType, Resident, Sampler, SamplerState, Scheduler,
    SeededNoise, Stage, Step, TextEmbedding, TextEncoder, WeightBytes,
};
pub use sd_models::WeightStorage;
pub use sd_models::vae::Tiling;
pub use {sd_core as core, sd_models as models, sd_schedulers as schedulers};

/// README.md's programs are compiled with the documentation's tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
