//! Meaning of a model folder's class names: static tables, and no branch on a name elsewhere.

use std::sync::Arc;

use sd_core::{
    AbsentPrompt, Autoencoder, AutoencoderSpec, Denoiser, DenoiserSpec, NoiseSchedule,
    Parameterization, TextEncoder, WeightBytes,
};
use sd_models::unet::UNetFiles;
use sd_models::vae::{Limits, Tiling, TinyVaeFiles, VaeFiles};
use sd_models::{ClipTextFiles, ConfigFile, Files, LoadOptions};
use sd_schedulers::SchedulerConfig;

use crate::devices::compiles_kernels;
use crate::{Error, Result, Source};

/// Facts that the kind of pipeline says of a folder and its files do not.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// `_class_name` of `model_index.json`.
    class: &'static str,
    /// Folders of the text encoder and its tokenizer.
    text_encoder: [&'static str; 2],
    /// Stand-in for a negative prompt that was not given.
    absent: AbsentPrompt,
    /// `true` when diffusers corrects the scheduler's file as it opens such a folder
    /// (`steps_offset` 1, `clip_sample` false).
    corrects_scheduler: bool,
    /// `true` when diffusers does not believe a denoiser that was written in its first months that
    /// it was trained at less than 64 latent pixels.
    corrects_sample_size: bool,
}

/// The kinds of pipelines whose parts are the ones opened here.
static RECIPES: &[Recipe] = &[Recipe {
    class: "StableDiffusionPipeline",
    text_encoder: ["text_encoder", "tokenizer"],
    absent: AbsentPrompt::Empty,
    corrects_scheduler: true,
    corrects_sample_size: true,
}];

/// The file that says what kind of pipeline a folder holds, and of what classes its components are.
const INDEX: &str = "model_index.json";

/// Component folders of diffusers' layout.
const SCHEDULER: &str = "scheduler";
const DENOISER: &str = "unet";
const AUTOENCODER: &str = "vae";

/// A model folder whose kind is known.
pub(crate) struct ModelFolder<'a> {
    files: &'a Files,
    recipe: &'static Recipe,
    index: ConfigFile,
}

impl<'a> ModelFolder<'a> {
    /// The folder `files`, by what its index says.
    pub(crate) fn open(files: &'a Files) -> Result<Self> {
        let index = ConfigFile::read(files, INDEX)?;
        let class = index.text("_class_name")?;
        let mut recipes = RECIPES.iter();
        let found = recipes.find(|recipe| Some(recipe.class) == class.as_deref());
        let Some(recipe) = found else {
            let known = RECIPES.iter().map(|recipe| recipe.class);
            return Err(unsupported(&index, "_class_name", class.as_deref(), known));
        };
        Ok(Self {
            files,
            recipe,
            index,
        })
    }

    /// Folders of the text encoder, the denoiser and the autoencoder.
    pub(crate) fn components(&self) -> [&'static str; 3] {
        [self.recipe.text_encoder[0], DENOISER, AUTOENCODER]
    }

    /// Class of the component in the folder `folder`, which is the index's whatever its own file
    /// says; `None` where the index names none.
    fn class(&self, folder: &str) -> Result<Option<String>> {
        let expected = "a library's name and a class's name";
        let entry: Option<[Option<String>; 2]> = self.index.get(folder, expected)?;
        Ok(entry.and_then(|[_, class]| class))
    }

    /// The scheduler's file: values as they are in it, the class that of the index.
    pub(crate) fn scheduler(&self) -> Result<SchedulerConfig> {
        let files = self.files.folder(SCHEDULER);
        let config = files.text("scheduler_config.json")?;
        let config = match self.class(SCHEDULER)? {
            Some(class) => of_class(&config, &class),
            None => config,
        };
        Ok(match self.recipe.corrects_scheduler {
            true => SchedulerConfig::from_json(&config)?,
            false => SchedulerConfig::from_json_verbatim(&config)?,
        })
    }

    /// The text encoder.
    pub(crate) fn text_encoder(&self, options: &LoadOptions) -> Result<Opened<dyn TextEncoder>> {
        let [folder, tokenizer] = self.recipe.text_encoder;
        let reading = Reading {
            tokenizer,
            absent: self.recipe.absent,
        };
        let mut file = self.config(folder)?;
        let mut open = TEXT_ENCODERS[0].1;
        if let Some(class) = self.class(folder)? {
            open = row(TEXT_ENCODERS, &class, &self.index, folder)?;
            file = file.with("architectures", vec![class]);
        }
        open(self.files, folder, file, reading, options)
    }

    /// The denoiser.
    pub(crate) fn denoiser(
        &self,
        training: Training,
        options: &LoadOptions,
    ) -> Result<Opened<dyn Denoiser>> {
        let (open, mut file) = self.opener(DENOISERS, DENOISER)?;
        if self.recipe.corrects_sample_size && is_doubtful(&file)? {
            file = file.with("sample_size", 64);
        }
        open(self.files, DENOISER, file, training, options)
    }

    /// The autoencoder.
    pub(crate) fn autoencoder(
        &self,
        cutting: Cutting,
        options: &LoadOptions,
    ) -> Result<Opened<dyn Autoencoder>> {
        let (open, file) = self.opener(AUTOENCODERS, AUTOENCODER)?;
        open(self.files, AUTOENCODER, file, cutting, options)
    }

    fn config(&self, folder: &str) -> Result<ConfigFile> {
        Ok(ConfigFile::read(&self.files.folder(folder), "config.json")?)
    }

    /// The opener of the component in the folder `folder` and its configuration, both by its class;
    /// the first of `table` is meant where nothing names one.
    fn opener<O: Copy>(&self, table: &[(&str, O)], folder: &str) -> Result<(O, ConfigFile)> {
        let file = self.config(folder)?;
        if let Some(class) = self.class(folder)? {
            let open = row(table, &class, &self.index, folder)?;
            return Ok((open, file.with("_class_name", class)));
        }
        let open = match file.text("_class_name")? {
            Some(class) => row(table, &class, &file, "_class_name")?,
            None => table[0].1,
        };
        Ok((open, file))
    }
}

/// What `table` has for `class`, which the setting `field` of `file` names.
fn row<O: Copy>(table: &[(&str, O)], class: &str, file: &ConfigFile, field: &str) -> Result<O> {
    let found = table.iter().find(|(name, _)| *name == class);
    let known = table.iter().map(|(name, _)| *name);
    found.map_or_else(
        || Err(unsupported(file, field, Some(class), known)),
        |(_, opener)| Ok(*opener),
    )
}

fn unsupported<'a>(
    file: &ConfigFile,
    field: &str,
    class: Option<&str>,
    known: impl Iterator<Item = &'a str>,
) -> Error {
    let known: Vec<_> = known.collect();
    let class = class.unwrap_or("missing");
    let what = format!("{field} is {class}, supported is {}", known.join(", "));
    let path = file.path().into();
    sd_models::Error::Unsupported { path, what }.into()
}

/// The text of a scheduler's file as that of `class`: of two values of one name the last counts, in
/// JSON as it is read here and by Python.
fn of_class(text: &str, class: &str) -> String {
    let Some(settings) = text.trim_end().strip_suffix('}') else {
        // No object; its reader says so.
        return text.into();
    };
    let comma = if settings.trim_end().ends_with('{') {
        ""
    } else {
        ","
    };
    let class = serde_json::Value::from(class);
    format!("{settings}{comma} \"_class_name\": {class} }}")
}

/// `true` of a file that was written before diffusers 0.9 and claims a single side below 64.
fn is_doubtful(file: &ConfigFile) -> Result<bool> {
    let small = file.get::<serde_json::Value>("sample_size", "a size")?;
    let small = small
        .and_then(|side| side.as_i64())
        .is_some_and(|side| side < 64);
    let version = file.text("_diffusers_version")?;
    let before = version
        .as_deref()
        .and_then(release)
        .is_some_and(|found| found < (0, 9));
    Ok(small && before)
}

/// The first two numbers of a version: those of 0.9.0.dev0 are 0 and 9.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
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

/// Reading of a text: its tokenizer's folder, and what is read where there is none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    tokenizer: &'static str,
    absent: AbsentPrompt,
}

/// Files of a component, found sound.
type Opened<T> = Box<dyn Source<T>>;

/// Opens the folder of that name, whose configuration is given, as a component that computes as the
/// options say.
type Opener<T, With> = fn(&Files, &str, ConfigFile, With, &LoadOptions) -> Result<Opened<T>>;

/// Text encoders by the class that the index names.
static TEXT_ENCODERS: &[(&str, Opener<dyn TextEncoder, Reading>)] = &[
    ("CLIPTextModel", clip),
    ("CLIPTextModelWithProjection", clip),
];

fn clip(
    files: &Files,
    folder: &str,
    file: ConfigFile,
    reading: Reading,
    options: &LoadOptions,
) -> Result<Opened<dyn TextEncoder>> {
    let Reading { tokenizer, absent } = reading;
    let encoder = ClipTextFiles::open_configured(files, folder, tokenizer, file, options)?;
    Ok(Box::new(encoder.with_absent(absent)))
}

/// Denoisers by their class.
static DENOISERS: &[(&str, Opener<dyn Denoiser, Training>)] = &[(
    "UNet2DConditionModel",
    |files, folder, file, training, options| {
        let Training {
            schedule,
            parameterization,
        } = training;
        let unet =
            UNetFiles::open_configured(files, folder, file, schedule, parameterization, options)?;
        Ok(Box::new(unet))
    },
)];

/// Autoencoders, likewise.
static AUTOENCODERS: &[(&str, Opener<dyn Autoencoder, Cutting>)] = &[
    ("AutoencoderKL", |files, folder, file, cutting, options| {
        let vae = VaeFiles::open_configured(files, folder, file, options)?;
        let vae = vae.with_tiling(cutting.tiling).with_limits(cutting.limits);
        Ok(Box::new(vae))
    }),
    (
        "AutoencoderTiny",
        |files, folder, file, cutting, options| {
            let vae = TinyVaeFiles::open_configured(files, folder, file, options)?;
            let vae = vae.with_tiling(cutting.tiling).with_limits(cutting.limits);
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

    fn uses_threads(&self) -> bool {
        // On a GPU a device may keep memory for each thread that uses it, and a thread that ends
        // takes none of it along.
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

    fn uses_threads(&self) -> bool {
        !compiles_kernels(&TinyVaeFiles::spec(self).device)
    }
}
