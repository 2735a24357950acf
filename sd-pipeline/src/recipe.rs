//! Meaning of a model folder's class names: static tables, and no branch on a name elsewhere.

mod distilled;
mod folder;
mod others;
mod part;
mod rows;
mod safety;

use std::sync::Arc;

use sd_core::{
    Autoencoder, AutoencoderSpec, Denoiser, DenoiserSpec, NoiseSchedule, Parameterization,
    TextEncoder, WeightBytes,
};
use sd_models::lora::{LoraFile, LoraStrength, Matches};
use sd_models::unet::UNetFiles;
use sd_models::vae::{Limits, Tiling, TinyVaeFiles, VaeFiles};
use sd_models::{
    ClipPairFiles, ClipTextFiles, ConfigFile, Files, LayerChanges, LoadOptions, TextualInversion,
};

use crate::devices::compiles_kernels;
use crate::work::Footprint;
use crate::{Error, Result, Source};

pub(crate) use self::distilled::Distilled;
pub(crate) use self::folder::ModelFolder;
pub(crate) use self::part::Part;

/// What `table` has for `class`, which the setting `field` of `file` names.
fn row<O: Copy>(table: &[(&str, O)], class: &str, file: &ConfigFile, field: &str) -> Result<O> {
    let found = table.iter().find(|(name, _)| *name == class);
    let known = table.iter().map(|(name, _)| *name);
    found.map_or_else(
        || Err(unsupported(file, field, Some(class), None, known)),
        |(_, opener)| Ok(*opener),
    )
}

/// `kind` says what the class is, where that is known.
fn unsupported<'a>(
    file: &ConfigFile,
    field: &str,
    class: Option<&str>,
    kind: Option<&str>,
    known: impl Iterator<Item = &'a str>,
) -> Error {
    let known: Vec<_> = known.collect();
    let class = class.unwrap_or("missing");
    let kind = kind.map_or(String::new(), |kind| format!(" ({kind})"));
    let what = format!(
        "{field} is {class}{kind}, supported is {}",
        known.join(", ")
    );
    let path = file.path().into();
    sd_models::Error::Unsupported { path, what }.into()
}

/// Facts of a denoiser's training that its own file does not say: the meaning of its output, the
/// noise levels, whether it was told how good a picture is.
#[derive(Debug, Clone)]
pub(crate) struct Training {
    schedule: Arc<NoiseSchedule>,
    parameterization: Parameterization,
    embeds_aesthetic_score: bool,
}

/// What an autoencoder is told that its own file does not say: the memory it may take, its way to
/// cut pictures to keep within, and the scaling factor of the model's own, where it is another.
#[derive(Debug, Clone, Copy)]
struct Fitting {
    tiling: Tiling,
    limits: Limits,
    scaling_factor: Option<f64>,
}

/// Files of a component, found sound.
type Opened<T> = Box<dyn Source<T>>;

/// Opens the folder of that name, whose configuration is given, as a component that computes as the
/// options say.
type Opener<T, With> = fn(&Files, &str, ConfigFile, With, &LoadOptions) -> Result<Opened<T>>;

/// Opens a text encoder with the tokenizer in a folder.
type TextOpener = fn(&Part, &Files, ConfigFile, &LoadOptions) -> Result<ClipTextFiles>;

/// Text encoders by the class that the index names.
static TEXT_ENCODERS: &[(&str, TextOpener)] = &[
    ("CLIPTextModel", clip),
    ("CLIPTextModelWithProjection", clip),
];

fn clip(
    part: &Part,
    tokenizer: &Files,
    file: ConfigFile,
    options: &LoadOptions,
) -> Result<ClipTextFiles> {
    let folder = part.files();
    Ok(ClipTextFiles::open_in(&folder, tokenizer, file, options)?)
}

/// Denoisers by their class.
static DENOISERS: &[(&str, Opener<dyn Denoiser, Training>)] = &[(
    "UNet2DConditionModel",
    |files, folder, file, training, options| {
        let Training {
            schedule,
            parameterization,
            embeds_aesthetic_score,
        } = training;
        let unet =
            UNetFiles::open_configured(files, folder, file, schedule, parameterization, options)?;
        Ok(Box::new(unet.with_aesthetic_score(embeds_aesthetic_score)))
    },
)];

/// Autoencoders, likewise.
static AUTOENCODERS: &[(&str, Opener<dyn Autoencoder, Fitting>)] = &[
    ("AutoencoderKL", |files, folder, file, fitting, options| {
        let mut vae = VaeFiles::open_configured(files, folder, file, options)?;
        if let Some(factor) = fitting.scaling_factor {
            vae = vae.with_default_scaling(factor)?;
        }
        let vae = vae.with_tiling(fitting.tiling).with_limits(fitting.limits);
        Ok(Box::new(vae))
    }),
    (
        "AutoencoderTiny",
        |files, folder, file, fitting, options| {
            let vae = TinyVaeFiles::open_configured(files, folder, file, options)?;
            let vae = vae.with_tiling(fitting.tiling).with_limits(fitting.limits);
            Ok(Box::new(vae))
        },
    ),
];

impl Source<dyn TextEncoder> for ClipTextFiles {
    fn spec(&self) -> &() {
        &()
    }

    fn load(&self) -> Result<(Arc<dyn TextEncoder>, WeightBytes)> {
        let encoder = ClipTextFiles::load(self)?;
        let weights = encoder.weights();
        Ok((Arc::new(encoder), weights))
    }

    fn with_lora(
        &self,
        lora: &LoraFile,
        strength: &LoraStrength,
        matches: &mut Matches,
    ) -> Result<Option<Box<dyn Source<dyn TextEncoder>>>> {
        Ok(Some(Box::new(ClipTextFiles::with_lora(
            self, 0, lora, strength, matches,
        )?)))
    }

    fn lora_beside(
        &self,
        lora: &LoraFile,
        strength: &LoraStrength,
        matches: &mut Matches,
    ) -> Result<Vec<LayerChanges>> {
        let changes = ClipTextFiles::lora_beside(self, 0, lora, strength, matches)?;
        Ok(vec![changes])
    }

    fn footprint(&self) -> Option<&dyn Footprint> {
        Some(self)
    }

    fn with_word(
        &self,
        word: &TextualInversion,
    ) -> Result<Option<Box<dyn Source<dyn TextEncoder>>>> {
        Ok(Some(Box::new(ClipTextFiles::with_word(self, word, 0, 1)?)))
    }

    fn uses_threads(&self) -> bool {
        // On a GPU a device may keep memory for each thread that uses it, and a thread that ends
        // takes none of it along.
        !compiles_kernels(self.device())
    }
}

impl Source<dyn TextEncoder> for ClipPairFiles {
    fn spec(&self) -> &() {
        &()
    }

    fn load(&self) -> Result<(Arc<dyn TextEncoder>, WeightBytes)> {
        let encoders = ClipPairFiles::load(self)?;
        let weights = encoders.weights();
        Ok((Arc::new(encoders), weights))
    }

    fn with_lora(
        &self,
        lora: &LoraFile,
        strength: &LoraStrength,
        matches: &mut Matches,
    ) -> Result<Option<Box<dyn Source<dyn TextEncoder>>>> {
        Ok(Some(Box::new(ClipPairFiles::with_lora(
            self, lora, strength, matches,
        )?)))
    }

    fn lora_beside(
        &self,
        lora: &LoraFile,
        strength: &LoraStrength,
        matches: &mut Matches,
    ) -> Result<Vec<LayerChanges>> {
        let changes = ClipPairFiles::lora_beside(self, lora, strength, matches)?;
        Ok(changes.into())
    }

    fn footprint(&self) -> Option<&dyn Footprint> {
        Some(self)
    }

    fn with_word(
        &self,
        word: &TextualInversion,
    ) -> Result<Option<Box<dyn Source<dyn TextEncoder>>>> {
        Ok(Some(Box::new(ClipPairFiles::with_word(self, word)?)))
    }

    fn uses_threads(&self) -> bool {
        !compiles_kernels(self.device())
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

    fn with_lora(
        &self,
        lora: &LoraFile,
        strength: &LoraStrength,
        matches: &mut Matches,
    ) -> Result<Option<Box<dyn Source<dyn Denoiser>>>> {
        Ok(Some(Box::new(UNetFiles::with_lora(
            self, lora, strength, matches,
        )?)))
    }

    fn lora_beside(
        &self,
        lora: &LoraFile,
        strength: &LoraStrength,
        matches: &mut Matches,
    ) -> Result<Vec<LayerChanges>> {
        let changes = UNetFiles::lora_beside(self, lora, strength, matches)?;
        Ok(vec![changes])
    }

    fn unet(&self) -> Option<&UNetFiles> {
        Some(self)
    }

    fn footprint(&self) -> Option<&dyn Footprint> {
        Some(self)
    }

    fn uses_threads(&self) -> bool {
        !compiles_kernels(&UNetFiles::spec(self).device)
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

    fn footprint(&self) -> Option<&dyn Footprint> {
        Some(self)
    }

    fn uses_threads(&self) -> bool {
        !compiles_kernels(&VaeFiles::spec(self).device)
    }
}

impl Source<dyn Autoencoder> for TinyVaeFiles {
    fn spec(&self) -> &AutoencoderSpec {
        TinyVaeFiles::spec(self)
    }

    fn load(&self) -> Result<(Arc<dyn Autoencoder>, WeightBytes)> {
        let vae = TinyVaeFiles::load(self)?;
        let weights = vae.weights();
        Ok((Arc::new(vae), weights))
    }

    fn footprint(&self) -> Option<&dyn Footprint> {
        Some(self)
    }

    fn uses_threads(&self) -> bool {
        !compiles_kernels(&TinyVaeFiles::spec(self).device)
    }
}
