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
//! [`Pipeline::generate`] is that loop in one call. A [`Pipeline`] is four components in their
//! places; assigning another one swaps it, for instance
//! `pipeline.scheduler = Arc::new(Euler::default())` or `pipeline.denoiser = my_denoiser.into()`.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod adapters;
mod beside;
mod control;
mod convert;
mod defaults;
pub mod devices;
mod error;
mod estimate;
mod finite;
#[cfg(feature = "hub-http")]
mod from_hub;
mod guard;
mod hires;
mod image_processor;
mod image_prompt;
mod inpaint;
mod interpolate;
mod ip_adapter;
mod latent_rgb;
mod latents;
mod memory;
mod model_path;
mod open;
mod output;
mod picture;
mod picture_reader;
mod picture_start;
mod picture_to_change;
mod pipeline;
mod recipe;
mod record;
mod regions;
mod request;
mod resample;
mod run;
mod safety;
mod saved;
#[cfg(feature = "serde")]
mod serde_values;
mod similarity;
mod single_file;
mod slot;
mod stages;
mod step_scales;
mod stored;
mod synchronized;
mod variants;
mod warm_up;
mod watermark;
mod work;

pub use adapters::Lora;
pub use control::{Control, ControlPicture};
pub use convert::{Conversion, ConvertOptions, ModelLayout, convert};
pub use defaults::Defaults;
#[doc(inline)]
pub use devices::open as device;
pub use error::{Error, Result};
pub use estimate::Estimate;
pub use hires::{Drawn, HiRes, Upscale, Upscaled, Upscaler};
pub use image_processor::ImageProcessor;
pub use image_prompt::ImagePrompt;
pub use inpaint::{Expand, Fill, Inpaint, MaskRule, gaussian_blur};
pub use interpolate::Interpolation;
pub use ip_adapter::IpAdapter;
pub use latent_rgb::LatentRgb;
pub use latents::{read_latents, write_latents};
pub use memory::{DevicePool, PhasePeaks, PipelineMemory};
pub use model_path::NotAModel;
pub use open::{ComponentFolders, Components, OpenOptions, Placement};
pub use output::OutputFile;
pub use picture::{Picture, PictureFormat, image_from_pixels, write_picture, write_png};
pub use picture_reader::{
    PictureError, mask_from_bytes, picture_from_bytes, read_mask, read_picture,
};
pub use picture_start::{PictureStart, SampleMode};
pub use picture_to_change::PictureToChange;
pub use pipeline::Pipeline;
pub use record::{
    OriginalRecord, Record, RecordError, RecordedCombination, RecordedContrast, RecordedGuidance,
    RecordedHiRes, RecordedInpaint, RecordedRegion,
};
pub use regions::{Area, Rectangle, Region};
pub use request::{Request, Start};
pub use resample::{Opaque, Resampling, Resize, resize};
#[cfg(feature = "stream")]
#[cfg_attr(docsrs, doc(cfg(feature = "stream")))]
pub use run::RunStream;
pub use run::{Handover, Preview, Progress, Run};
pub use safety::{Concept, ConceptChecker, OnFlagged, SafetyChecker, Verdict};
#[cfg(feature = "hub-http")]
#[cfg_attr(docsrs, doc(cfg(feature = "hub")))]
pub use sd_hub as hub;
pub use similarity::Similarity;
pub use slot::{Component, Residency, Slot, Source};
pub use step_scales::StepScales;
pub use warm_up::{WarmUp, WarmUpStage};
pub use watermark::{Channel, Marking, TooSmall, Watermark, WatermarkError};
pub use work::{Footprint, Work};

pub use burn;
pub use burn::tensor::{Device, FloatDType};
pub use image;
pub use image::{GrayImage, RgbImage};
pub use sd_core::{
    AbsentPrompt, At, Autoencoder, AutoencoderSpec, Blend, BranchEvaluation, Cancel,
    ClassifierFree, Combination, Composed, Conditioning, Contrast, Denoiser, DenoiserPair,
    DenoiserSpec, Embedded, Emphasis, Extension, Extensions, Guidance, Guide, Layer, Level, Mask,
    Masked, Model, Network, NetworkOutput, Noise, NoiseSchedule, Parameterization,
    PerpendicularNegative, Perturbation, Perturbed, Plan, Prediction, Projected, Prompt, RunStart,
    Sampler, SavedState, ScaleCurve, Scheduler, SecondNetwork, SeededNoise, SizeConditioning,
    SoftMask, Stage, StartedLayer, Step, Syntax, Text, TextAndPicture, TextEmbedding, TextEncoder,
    Thresholded, TiledDenoiser, Tiles, Unguided, WeightBytes, ZeroStar, each_branch, exactly,
};
pub use sd_models::OutputReplay;
pub use sd_models::ip_adapter::IpAdapterFiles;
pub use sd_models::lora::BlockScales;
pub use sd_models::unet::{FreeU, FreeUPlaces, LayerScale, StepCache};
pub use sd_models::vae::Tiling;
pub use sd_models::{PredictionType, SingleFile, TextualInversion, UnknownSettings, WeightStorage};
pub use {
    sd_core as core, sd_models as models, sd_prompts as prompts, sd_schedulers as schedulers,
};

/// README.md's programs are compiled with the documentation's tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
