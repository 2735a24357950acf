use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType};
use sd_core::{Autoencoder, Denoiser, TextEncoder};
use sd_models::vae::{Limits, Tiling};
use sd_models::{
    Files, LoadOptions, PredictionType, TextualInversion, UnknownSettings, WeightStorage,
};
use sd_schedulers::ConfigError;

use crate::adapters;
use crate::devices::{check_precision, largest_buffer};
use crate::model_path;
use crate::recipe::ModelFolder;
use crate::record::Fingerprint;
use crate::single_file;
use crate::slot::Component;
use crate::synchronized::synchronized;
use crate::variants::Variants;
use crate::{Lora, OnFlagged, Pipeline, Residency, Result, SafetyChecker, Slot, Source};

/// Options with which a model is opened.
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
    /// Device it computes on.
    pub device: Device,
    /// The precision it computes in; the files may hold any.
    pub dtype: FloatDType,
    /// Place of the text encoder; `None`: with the others. It runs once per picture, so on
    /// a small GPU it does as well on the CPU and leaves its memory to the U-Net.
    pub text_encoder: Option<Placement>,
    /// Place of the autoencoder; `None`: with the others.
    pub autoencoder: Option<Placement>,
    /// The scheduler's name; `None`: the one the model's folder says.
    pub scheduler: Option<String>,
    /// Variant of the weights, such as `fp16` or `non_ema`: of each component that has it, the
    /// others as without. `None`: the weights without a variant's name, and where there are none,
    /// `fp16`.
    pub variant: Option<String>,
    /// Storage of weights that the files hold in half precision: as f32, or as they are. Results are the
    /// same. Of consequence only on the flex device in f32.
    pub weight_storage: WeightStorage,
    /// `true` where the denoiser and control networks shall multiply linear layers and convolutions in
    /// int8, the rest in [`dtype`](Self::dtype): on the flex device in f32 or bf16, where the processor
    /// has instructions for it (for 3×3 convolutions AMX), and but for layers whose weights lose much by it
    /// ([`LoadOptions::with_int8`](sd_models::LoadOptions::with_int8)). Elsewhere of no consequence.
    pub int8: bool,
    /// Times at which the components are in memory: always, once they were needed, or each in its phase
    /// alone. With [`WeightStorage::AsStored`] the last is the least that a picture can be drawn with.
    pub residency: Residency,
    /// Manner in which the autoencoder cuts large pictures.
    pub tiling: Tiling,
    /// Bytes that a picture may take inside the autoencoder, weights not counted; `None`: whatever
    /// there is. With [`Tiling::Auto`] a picture that needs more is decoded in strips.
    pub memory_budget: Option<u64>,
    /// The most bytes that the process may come to occupy, or of another device than a CPU the most
    /// that may be taken of it; `None`: whatever there is. Opening a model and starting a run are
    /// errors where [`Pipeline::estimate`] says that they would take more.
    pub memory_limit: Option<u64>,
    /// Treatment of a setting that nobody here knows in a configuration of the text encoder, the
    /// denoiser or the autoencoder.
    pub unknown_settings: UnknownSettings,
    /// What the denoiser's output means; `None`: what the model's files say. Two models of one
    /// shape may differ in nothing else, and a single file need not say it.
    pub prediction: Option<PredictionType>,
    /// Family of a model in a single file, such as `sd2_base` or `sdxl_turbo`; `None`: told from its
    /// tensors ([`SingleFile::families`](crate::SingleFile::families)).
    pub family: Option<String>,
    /// Folder in diffusers' layout whose settings and tokenizers are taken for a model, and for
    /// components, in single files, in place of those of their family; a folder of some of them will
    /// do. No weights are read from it.
    pub config: Option<PathBuf>,
    /// Folders and files with components in place of the model's own, which are then not read.
    pub folders: ComponentFolders,
    /// Changes to the model's weights, merged one after the other while they are read; see
    /// [`Pipeline::with_loras`].
    pub loras: Vec<Lora>,
    /// Words that the text encoder is taught; see [`Pipeline::with_words`].
    pub words: Vec<TextualInversion>,
    /// Fate of a picture that the safety checker flags, if the folder ships one; `None`: pictures are
    /// not checked, which the log says. The checker computes in f32, where the autoencoder does.
    pub safety: Option<OnFlagged>,
    /// Components of the program's own, in place of the folder's, which are then not read.
    pub components: Components,
}

/// Folders and files from which components are taken in place of a model's own: another autoencoder,
/// a U-Net of fewer steps.
///
/// Each is the folder of a model, of which the component of that name is taken, or the component's
/// own; or a file, of a model or of the component alone, in any layout. The kind of pipeline, the scheduler and the noise schedule stay the model's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct ComponentFolders {
    /// Text encoders, and their tokenizers where there are some. A single encoder's folder takes the
    /// place of the one of its class.
    pub text_encoder: Option<PathBuf>,
    /// The denoiser.
    pub denoiser: Option<PathBuf>,
    /// The autoencoder. Where its file says no scaling factor, it has the one of the model's own.
    pub autoencoder: Option<PathBuf>,
}

/// Components of the program's own, to be used in place of those in a model folder: another
/// autoencoder, for example.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Components {
    /// In place of the folders of text encoders and tokenizers.
    pub text_encoder: Option<Slot<dyn TextEncoder>>,
    /// In place of the folder `unet`.
    pub denoiser: Option<Slot<dyn Denoiser>>,
    /// In place of the folder `vae`.
    pub autoencoder: Option<Slot<dyn Autoencoder>>,
    /// In place of the folders `safety_checker` and `feature_extractor`, whether they are there or
    /// not.
    pub safety_checker: Option<Slot<dyn SafetyChecker>>,
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
            variant: None,
            weight_storage: WeightStorage::F32,
            int8: false,
            residency: Residency::Always,
            tiling: Tiling::Auto,
            memory_budget: None,
            memory_limit: None,
            unknown_settings: UnknownSettings::Refuse,
            prediction: None,
            family: None,
            config: None,
            folders: ComponentFolders::default(),
            loras: Vec::new(),
            words: Vec::new(),
            safety: Some(OnFlagged::default()),
            components: Components::default(),
        }
    }

    /// The least memory: [`WeightStorage::AsStored`] and [`Residency::PerPhase`].
    pub fn smallest(device: &Device) -> Self {
        Self {
            weight_storage: WeightStorage::AsStored,
            residency: Residency::PerPhase,
            ..Self::new(device)
        }
    }

    /// Places of the text encoder, the denoiser and the autoencoder.
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
            synchronized(&[device], "asking the device", || {
                Ok(check_precision(device, *dtype)?)
            })?;
        }
        Ok(placements)
    }
}

/// Place of one component of a pipeline: device and precision. Between components the pipeline
/// moves what they exchange: embeddings and latents, a few hundred kilobytes.
#[derive(Debug, Clone)]
pub struct Placement {
    /// Device it computes on.
    pub device: Device,
    /// The precision it computes in.
    pub dtype: FloatDType,
}

impl Pipeline {
    /// Opens a model: a single file, or a folder in diffusers layout.
    ///
    /// A single file is safetensors, a PyTorch checkpoint (`.ckpt`) or GGUF, told by its content. Its
    /// networks are configured by the shapes of its tensors; what these do not tell is as in the
    /// published models of its family, unless the file, a `.yaml` of its name beside it, or
    /// `options` say otherwise ([`SingleFile`](crate::SingleFile)). CLIP's tokenizer is built in. No
    /// other file beside it is read: an autoencoder there is given in
    /// [`folders`](OpenOptions::folders).
    ///
    /// A folder holds `model_index.json`, and the sub-folders
    /// `tokenizer`, `text_encoder`, `unet`, `vae` and `scheduler`, with `tokenizer_2` and
    /// `text_encoder_2` for SDXL. The class of the pipeline that it names says how they are read. A
    /// folder's safety checker, `safety_checker` and `feature_extractor`, checks what is drawn
    /// unless the options say no.
    ///
    /// Weights are safetensors files in f32, f16 or bf16, whole or in shards. Loading is strict:
    /// a tensor that is missing, left over or of another shape is an error. The classes of the
    /// components are those that `model_index.json` names; their own files have the settings.
    ///
    /// The folder of a repository in a hub's cache (`models--OWNER--NAME`) is opened at the snapshot
    /// that its `main` names, or at the only one there is.
    ///
    /// # Errors
    /// [`Error::NotAModel`](crate::Error::NotAModel) when there is something else at that path;
    /// [`Error::MissingComponents`](crate::Error::MissingComponents) for a file that lacks some;
    /// [`Error::NoVariant`](crate::Error::NoVariant) when no component has the variant asked for;
    /// [`Error::Model`](crate::Error::Model) and [`Error::Scheduler`](crate::Error::Scheduler),
    /// naming the file and what would be right; [`Error::Component`](crate::Error::Component) when
    /// a device does not compute in the precision asked for.
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        let path = path.as_ref();
        match model_path::is_weights(path) {
            true => {
                let file = single_file::open(path, options)?;
                Self::assemble(file.files(), Some(path), options)
            }
            false => Self::from_files(&model_path::files(path), options),
        }
    }

    /// As [`open`](Self::open), from files wherever they are: in a folder or in the program.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_files(files: &Files, options: &OpenOptions) -> Result<Self> {
        model_path::check(files)?;
        single_file::check_unused(options)?;
        Self::assemble(files, files.on_disk(), options)
    }

    /// The pipeline of the folder `files`, of a model that lies at `path`.
    #[tracing::instrument(level = "info", name = "open", skip_all)]
    fn assemble(files: &Files, path: Option<&Path>, options: &OpenOptions) -> Result<Self> {
        let folder = ModelFolder::open(files, path, options)?;
        let [text, net, auto] = options.placements()?;
        let Components {
            text_encoder,
            denoiser,
            autoencoder,
            safety_checker,
        } = options.components.clone();

        // All that can be wrong at little cost comes before the weights.
        let scheduler_config = folder.scheduler()?;
        let scheduler = match &options.scheduler {
            Some(name) => scheduler_config.named(&name.parse().map_err(ConfigError::from)?)?,
            None => scheduler_config.scheduler()?,
        };
        let scheduler_name = match &options.scheduler {
            Some(name) => name.clone(),
            None => scheduler_config.class_name().into(),
        };
        let training = folder.training(&scheduler_config)?;

        // What the program gives itself is not looked for.
        let text_encoder = match text_encoder {
            Some(slot) => Found::Given(slot),
            None => Found::Files(folder.text_parts()?),
        };
        let denoiser = match denoiser {
            Some(slot) => Found::Given(slot),
            None => Found::Files(folder.denoiser_part()?),
        };
        let autoencoder = match autoencoder {
            Some(slot) => Found::Given(slot),
            None => Found::Files(folder.autoencoder_part()?),
        };
        let texts = text_encoder.files().into_iter().flatten();
        let read = texts.map(|part| &part.encoder);
        let read = read.chain(denoiser.files()).chain(autoencoder.files());
        let read = read.map(|part| (part.name.clone(), part.files()));
        let read: Vec<_> = read.collect();
        let variants = Variants::find(files, &read, options.variant.as_deref())?;
        let load = |Placement { device, dtype }: &Placement, folder: &str| {
            LoadOptions {
                weight_storage: options.weight_storage,
                variant: variants.of(folder),
                unknown_settings: options.unknown_settings,
                ..LoadOptions::new(device)
            }
            .by_kernels(*dtype)
        };
        let text_encoder =
            text_encoder.opened(|parts| folder.text_encoder(&parts, |name| load(&text, name)))?;
        let denoiser = denoiser.opened(|part| {
            let load = load(&net, &part.name);
            let load = if options.int8 { load.with_int8() } else { load };
            folder.denoiser(&part, training, &load)
        })?;
        let text_encoder = taught(text_encoder, &options.words)?;
        let (text_encoder, denoiser) = changed(text_encoder, denoiser, &options.loras)?;
        let limits = Limits {
            largest_buffer: largest_buffer(&auto.device),
            budget: options.memory_budget,
        };
        let autoencoder = autoencoder.opened(|part| {
            let load = load(&auto, &part.name);
            folder.autoencoder(&part, options.tiling, limits, &load)
        })?;

        let safety_checker = match (options.safety, safety_checker) {
            (Some(_), Some(slot)) => Some(Found::Given(slot)),
            (Some(_), None) => {
                let load = load(&auto, "").by_kernels(FloatDType::F32);
                // A verdict is not rounded for a picture's sake.
                let weight_storage = match load.weight_storage.rounding() {
                    Some(_) => WeightStorage::AsStored,
                    None => load.weight_storage,
                };
                let options = LoadOptions {
                    variant: options.variant.clone(),
                    weight_storage,
                    ..load
                };
                folder.safety_checker(&options)?.map(Found::Files)
            }
            (None, _) => {
                tracing::warn!("the safety checker is off: pictures are not checked");
                None
            }
        };

        let kind = folder.kind()?;

        // All files are sound: now their values, or later.
        let residency = options.residency;
        let pipeline = Self {
            text_encoder: text_encoder.slot(residency),
            denoiser: denoiser.slot(residency),
            autoencoder: autoencoder.slot(residency),
            controls: Vec::new(),
            safety_checker: safety_checker.map(|checker| checker.slot(residency)),
            image_adapters: Vec::new(),
            memory_limit: options.memory_limit,
            on_flagged: options.safety.unwrap_or_default(),
            latent_rgb: Some(folder.latent_rgb()),
            name: path.and_then(model_path::name),
            adapters: adapters::names(&options.loras, &options.words).collect(),
            beside: Vec::new(),
            fingerprint: Fingerprint::new(path),
            scheduler_name: Some((scheduler_name, scheduler.clone())),
            scheduler,
            scheduler_config: Some(scheduler_config),
            kind,
        };
        if residency == Residency::Always {
            if options.memory_limit.is_some() {
                pipeline.estimate_weights().check(options.memory_limit)?;
            }
            synchronized(&[&text.device], "loading the text encoder", || {
                pipeline.text_encoder.load()
            })?;
            synchronized(&[&net.device], "loading the denoiser", || {
                pipeline.denoiser.load()
            })?;
            synchronized(&[&auto.device], "loading the autoencoder", || {
                pipeline.autoencoder.load()
            })?;
            if let Some(checker) = &pipeline.safety_checker {
                synchronized(&[&auto.device], "loading the safety checker", || {
                    checker.load()
                })?;
            }
        }
        Ok(pipeline)
    }
}

type FoundSource<T> = Found<T, Box<dyn Source<T>>>;

/// The text encoder with `words` more, where it is read from files.
fn taught(
    text_encoder: FoundSource<dyn TextEncoder>,
    words: &[TextualInversion],
) -> Result<FoundSource<dyn TextEncoder>> {
    let source = text_encoder.files().map(|source| &**source);
    let taught = adapters::teach(source, words)?;
    Ok(taught.map_or(text_encoder, Found::Files))
}

/// The components with `loras` merged into what is read from files.
fn changed(
    text_encoder: FoundSource<dyn TextEncoder>,
    denoiser: FoundSource<dyn Denoiser>,
    loras: &[Lora],
) -> Result<(FoundSource<dyn TextEncoder>, FoundSource<dyn Denoiser>)> {
    if loras.is_empty() {
        return Ok((text_encoder, denoiser));
    }
    let texts = text_encoder.files().map(|source| &**source);
    let net = denoiser.files().map(|source| &**source);
    let merged = adapters::merge(texts, net, loras)?;
    let width = match &denoiser {
        Found::Given(slot) => slot.spec().context_width,
        Found::Files(source) => source.spec().context_width,
    };
    adapters::check(loras, &merged.reports, width)?;
    Ok((
        merged.text_encoder.map_or(text_encoder, Found::Files),
        merged.denoiser.map_or(denoiser, Found::Files),
    ))
}

/// A component of the program's own, or files of one.
enum Found<T: Component + ?Sized, F> {
    Given(Slot<T>),
    Files(F),
}

impl<T: Component + ?Sized, F> Found<T, F> {
    fn files(&self) -> Option<&F> {
        match self {
            Self::Given(_) => None,
            Self::Files(files) => Some(files),
        }
    }

    /// The same with the files found sound.
    fn opened(
        self,
        open: impl FnOnce(F) -> Result<Box<dyn Source<T>>>,
    ) -> Result<Found<T, Box<dyn Source<T>>>> {
        Ok(match self {
            Self::Given(slot) => Found::Given(slot),
            Self::Files(files) => Found::Files(open(files)?),
        })
    }
}

impl<T: Component + ?Sized> Found<T, Box<dyn Source<T>>> {
    /// The component's place, with nothing loaded.
    fn slot(self, residency: Residency) -> Slot<T> {
        match self {
            Self::Given(slot) => slot,
            Self::Files(source) => Slot::boxed(source, residency),
        }
    }
}
