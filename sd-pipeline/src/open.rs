use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, FloatDType};
use sd_models::unet::UNetFiles;
use sd_models::vae::{Limits, Tiling, VaeFiles};
use sd_models::{ClipTextFiles, Files, LoadOptions, WeightStorage};
use sd_schedulers::{ConfigError, SchedulerConfig};
use serde::Deserialize;

use crate::device::{check_precision, largest_buffer, on};
use crate::on_demand::OnDemand;
use crate::{Pipeline, Residency, Result};

/// How to open a model.
///
/// ```
/// use sd_pipeline::{FloatDType, OpenOptions, device};
///
/// # fn main() -> sd_pipeline::Result<()> {
/// let options = OpenOptions {
///     dtype: FloatDType::F16,
///     scheduler: Some("DPM++ 2M Karras".into()),
///     ..OpenOptions::new(&device("flex")?)
/// };
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Where it computes.
    pub device: Device,
    /// The precision it computes in; the files may hold any.
    pub dtype: FloatDType,
    /// Where the text encoder computes; `None`: with the others. It runs once per picture, so on
    /// a small GPU it does as well on the CPU and leaves its memory to the U-Net.
    pub text_encoder: Option<Placement>,
    /// Where the autoencoder computes; `None`: with the others.
    pub autoencoder: Option<Placement>,
    /// The scheduler's name; `None`: the one the model's folder says.
    pub scheduler: Option<String>,
    /// Whether weights that the files hold in half precision stay so in memory. Results are the
    /// same. Of consequence only on the flex device in f32.
    pub memory: WeightStorage,
    /// When the components are in memory: always, once they were needed, or each in its phase
    /// alone. With [`WeightStorage::AsStored`] the last is the least that a picture can be drawn
    /// with.
    pub residency: Residency,
    /// How the autoencoder cuts large pictures.
    pub tiling: Tiling,
    /// Bytes that a picture may take inside the autoencoder, weights not counted; `None`: whatever
    /// there is. With [`Tiling::Auto`] a picture that needs more is decoded in strips.
    pub memory_budget: Option<u64>,
}

impl OpenOptions {
    /// f32 on `device`, with the model's own scheduler; everything is loaded at once.
    pub fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            dtype: FloatDType::F32,
            text_encoder: None,
            autoencoder: None,
            scheduler: None,
            memory: WeightStorage::F32,
            residency: Residency::Always,
            tiling: Tiling::Auto,
            memory_budget: None,
        }
    }

    /// The least memory: [`WeightStorage::AsStored`] and [`Residency::PerPhase`].
    pub fn smallest(device: &Device) -> Self {
        Self {
            memory: WeightStorage::AsStored,
            residency: Residency::PerPhase,
            ..Self::new(device)
        }
    }

    /// Where the text encoder, the denoiser and the autoencoder compute.
    fn placements(&self) -> Result<[Placement; 3]> {
        let denoiser = Placement {
            device: self.device.clone(),
            dtype: self.dtype,
        };
        let or = |own: &Option<Placement>| own.clone().unwrap_or_else(|| denoiser.clone());
        let placements = [
            or(&self.text_encoder),
            denoiser.clone(),
            or(&self.autoencoder),
        ];
        for Placement { device, dtype } in &placements {
            on(&[device], "asking the device", || {
                Ok(check_precision(device, *dtype)?)
            })?;
        }
        Ok(placements)
    }
}

/// Where one component of a pipeline computes, and how precisely. Between components the pipeline
/// moves what they exchange: embeddings and latents, a few hundred kilobytes.
#[derive(Debug, Clone)]
pub struct Placement {
    /// Where it computes.
    pub device: Device,
    /// The precision it computes in.
    pub dtype: FloatDType,
}

/// The part of `model_index.json` that says what kind of pipeline a folder holds.
#[derive(Debug, Deserialize)]
struct ModelIndex {
    #[serde(rename = "_class_name")]
    class_name: String,
}

/// The kinds of pipelines whose parts are the ones opened here.
const CLASSES: [&str; 1] = ["StableDiffusionPipeline"];

impl Pipeline {
    /// Opens a model folder in diffusers layout: `model_index.json` and the sub-folders
    /// `tokenizer`, `text_encoder`, `unet`, `vae` and `scheduler`.
    ///
    /// Weights are safetensors files in f32, f16 or bf16, whole or in shards. Loading is strict:
    /// a tensor that is missing, left over or of another shape is an error.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) and [`Error::Scheduler`](crate::Error::Scheduler),
    /// naming the file and what would be right; [`Error::Component`](crate::Error::Component) when
    /// a device does not compute in the precision asked for.
    pub fn open(folder: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        Self::from_files(&Files::directory(folder.as_ref()), options)
    }

    /// As [`open`](Self::open), from files wherever they are: in a folder or in the program.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_files(files: &Files, options: &OpenOptions) -> Result<Self> {
        let index: ModelIndex = files.json("model_index.json")?;
        if !CLASSES.contains(&index.class_name.as_str()) {
            let what = format!(
                "_class_name is {}, supported is {}",
                index.class_name,
                CLASSES.join(", ")
            );
            let path = files.path("model_index.json");
            return Err(sd_models::Error::Unsupported { path, what }.into());
        }
        let [text, net, auto] = options.placements()?;

        // All that can be wrong at little cost comes before the weights.
        let scheduler_files = files.folder("scheduler");
        let config = scheduler_files.read("scheduler_config.json")?;
        let scheduler_config = SchedulerConfig::from_json(&String::from_utf8_lossy(&config))?;
        let scheduler = match &options.scheduler {
            Some(name) => scheduler_config.named(&name.parse().map_err(ConfigError::from)?)?,
            None => scheduler_config.scheduler()?,
        };
        let schedule = scheduler_config.noise_schedule()?;
        let prediction = scheduler_config.prediction_type()?;

        let load = |Placement { device, dtype }: &Placement| LoadOptions {
            device: device.clone(),
            dtype: *dtype,
            memory: options.memory,
        };
        let (folder, tokenizer) = ("text_encoder", "tokenizer");
        let text_encoder = ClipTextFiles::open(files, folder, tokenizer, &load(&text))?;
        let denoiser = UNetFiles::open(files, "unet", schedule, prediction, &load(&net))?;
        let limits = Limits {
            largest_buffer: largest_buffer(&auto.device),
            budget: options.memory_budget,
        };
        let autoencoder = VaeFiles::open(files, "vae", &load(&auto))?
            .with_tiling(options.tiling)
            .with_limits(limits);

        // All files are sound: now their values, or later.
        let text_encoder = on(&[&text.device], "loading the text encoder", || {
            Ok(OnDemand::new(text_encoder, options.residency)?)
        })?;
        let denoiser = on(&[&net.device], "loading the U-Net", || {
            Ok(OnDemand::new(denoiser, options.residency)?)
        })?;
        let autoencoder = on(&[&auto.device], "loading the autoencoder", || {
            Ok(OnDemand::new(autoencoder, options.residency)?)
        })?;
        Ok(Self {
            text_encoder: Arc::new(text_encoder),
            denoiser: Arc::new(denoiser),
            autoencoder: Arc::new(autoencoder),
            scheduler,
            scheduler_config: Some(scheduler_config),
        })
    }
}
