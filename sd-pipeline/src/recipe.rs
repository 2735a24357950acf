//! Meaning of a model folder's class names: static tables, and no branch on a name elsewhere.

use std::sync::Arc;

use burn::tensor::Device;
use sd_core::{
    AbsentPrompt, Autoencoder, AutoencoderSpec, Denoiser, DenoiserSpec, NoiseSchedule,
    Parameterization, TextEncoder, WeightBytes,
};
use sd_models::unet::UNetFiles;
use sd_models::vae::{Limits, Tiling, VaeFiles};
use sd_models::{ClipTextFiles, Files, LoadOptions};
use serde::Deserialize;

use crate::{Result, Source};

/// Facts that the kind of pipeline says of a folder and its files do not.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// `_class_name` of `model_index.json`.
    class: &'static str,
    /// Folders of the text encoder and its tokenizer.
    pub(crate) text_encoder: [&'static str; 2],
    /// Stand-in for a negative prompt that was not given.
    pub(crate) absent: AbsentPrompt,
    /// `true` when diffusers corrects the scheduler's file as it opens such a folder
    /// (`steps_offset` 1, `clip_sample` false).
    pub(crate) corrects_scheduler: bool,
}

/// The kinds of pipelines whose parts are the ones opened here.
static RECIPES: &[Recipe] = &[Recipe {
    class: "StableDiffusionPipeline",
    text_encoder: ["text_encoder", "tokenizer"],
    absent: AbsentPrompt::Empty,
    corrects_scheduler: true,
}];

/// The part of `model_index.json` that says what kind of pipeline a folder holds.
#[derive(Debug, Deserialize)]
struct ModelIndex {
    #[serde(rename = "_class_name")]
    class_name: String,
}

/// The recipe that the folder `files` names.
pub(crate) fn recipe(files: &Files) -> Result<&'static Recipe> {
    let index: ModelIndex = files.json("model_index.json")?;
    let found = (RECIPES.iter()).find(|recipe| recipe.class == index.class_name);
    found.ok_or_else(|| {
        let known: Vec<_> = RECIPES.iter().map(|recipe| recipe.class).collect();
        let what = format!(
            "_class_name is {}, supported is {}",
            index.class_name,
            known.join(", ")
        );
        let path = files.path("model_index.json");
        sd_models::Error::Unsupported { path, what }.into()
    })
}

/// Meaning of a denoiser's output, and the noise levels it was trained on.
#[derive(Debug, Clone)]
pub(crate) struct Training {
    pub(crate) schedule: Arc<NoiseSchedule>,
    pub(crate) parameterization: Parameterization,
}

/// Memory that an autoencoder may take, and its way to cut pictures to keep within.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cutting {
    pub(crate) tiling: Tiling,
    pub(crate) limits: Limits,
}

/// Opens the folder of that name as a component that computes as the options say.
type Opener<T, With> = fn(&Files, &str, With, &LoadOptions) -> Result<Box<dyn Source<T>>>;

/// Denoisers by the `_class_name` of their `config.json`; the first is meant where it names none.
static DENOISERS: &[(&str, Opener<dyn Denoiser, Training>)] = &[(
    "UNet2DConditionModel",
    |files, folder, training, options| {
        let Training {
            schedule,
            parameterization,
        } = training;
        let unet = UNetFiles::open(files, folder, schedule, parameterization, options)?;
        Ok(Box::new(unet))
    },
)];

/// Autoencoders, likewise.
static AUTOENCODERS: &[(&str, Opener<dyn Autoencoder, Cutting>)] =
    &[("AutoencoderKL", |files, folder, cutting, options| {
        let vae = VaeFiles::open(files, folder, options)?;
        let vae = vae.with_tiling(cutting.tiling).with_limits(cutting.limits);
        Ok(Box::new(vae))
    })];

/// The denoiser in the folder `folder`.
pub(crate) fn denoiser(
    files: &Files,
    folder: &str,
    training: Training,
    options: &LoadOptions,
) -> Result<Box<dyn Source<dyn Denoiser>>> {
    opener(DENOISERS, files, folder)?(files, folder, training, options)
}

/// The autoencoder in the folder `folder`.
pub(crate) fn autoencoder(
    files: &Files,
    folder: &str,
    cutting: Cutting,
    options: &LoadOptions,
) -> Result<Box<dyn Source<dyn Autoencoder>>> {
    opener(AUTOENCODERS, files, folder)?(files, folder, cutting, options)
}

#[derive(Debug, Deserialize)]
struct ComponentConfig {
    #[serde(rename = "_class_name")]
    class_name: Option<String>,
}

fn opener<O: Copy>(table: &[(&str, O)], files: &Files, folder: &str) -> Result<O> {
    let files = files.folder(folder);
    let config: ComponentConfig = files.json("config.json")?;
    let class = config.class_name.as_deref().unwrap_or(table[0].0);
    let found = table.iter().find(|(name, _)| *name == class);
    let found = found.ok_or_else(|| {
        let known: Vec<_> = table.iter().map(|(name, _)| *name).collect();
        sd_models::Error::Unsupported {
            path: files.path("config.json"),
            what: format!("_class_name is {class}, supported is {}", known.join(", ")),
        }
    })?;
    Ok(found.1)
}

impl Source<dyn TextEncoder> for ClipTextFiles {
    fn spec(&self) -> &() {
        &()
    }

    fn load(&self) -> Result<(Arc<dyn TextEncoder>, WeightBytes)> {
        let encoder = ClipTextFiles::load(self)?;
        let weights = encoder.weights();
        Ok((Arc::new(encoder), weights))
    }

    fn uses_threads(&self) -> bool {
        is_cpu(self.device())
    }
}

impl Source<dyn Denoiser> for UNetFiles {
    fn spec(&self) -> &DenoiserSpec {
        UNetFiles::spec(self)
    }

    fn load(&self) -> Result<(Arc<dyn Denoiser>, WeightBytes)> {
        let unet = UNetFiles::load(self)?;
        let weights = unet.weights();
        Ok((Arc::new(unet), weights))
    }

    fn uses_threads(&self) -> bool {
        is_cpu(&UNetFiles::spec(self).device)
    }
}

impl Source<dyn Autoencoder> for VaeFiles {
    fn spec(&self) -> &AutoencoderSpec {
        VaeFiles::spec(self)
    }

    fn load(&self) -> Result<(Arc<dyn Autoencoder>, WeightBytes)> {
        let vae = VaeFiles::load(self)?;
        let weights = vae.weights();
        Ok((Arc::new(vae), weights))
    }

    fn uses_threads(&self) -> bool {
        is_cpu(&VaeFiles::spec(self).device)
    }
}

/// True where Burn computes in rayon's threads. Elsewhere a device may keep memory for each thread
/// that uses it, and a thread that ends takes none of it along.
fn is_cpu(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    let flex = *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    let flex = false;
    #[cfg(feature = "ndarray")]
    let ndarray = *device == Device::ndarray();
    #[cfg(not(feature = "ndarray"))]
    let ndarray = false;
    flex || ndarray
}
