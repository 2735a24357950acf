//! Meaning of a model folder's class names: static tables, and no branch on a name elsewhere.

mod distilled;
mod others;
mod rows;

use std::path::Path;
use std::sync::Arc;

use sd_core::{
    AbsentPrompt, Autoencoder, AutoencoderSpec, Denoiser, DenoiserSpec, NoiseSchedule,
    Parameterization, TextEncoder, WeightBytes,
};
use sd_models::unet::UNetFiles;
use sd_models::vae::{Limits, Tiling, TinyVaeFiles, VaeFiles};
use sd_models::{ClipPairFiles, ClipTextFiles, ConfigFile, Files, LoadOptions, UnknownSettings};
use sd_schedulers::SchedulerConfig;

use self::rows::{RECIPES, Recipe};
use crate::defaults::Kind;
use crate::devices::compiles_kernels;
use crate::{ComponentFolders, Error, Result, Source, model_path};

pub(crate) use self::distilled::Distilled;

/// The file that says what kind of pipeline a folder holds, and of what classes its components are.
const INDEX: &str = "model_index.json";

/// Component folders of diffusers' layout.
const SCHEDULER: &str = "scheduler";
const DENOISER: &str = "unet";
const AUTOENCODER: &str = "vae";

/// Entries of the index that are read, and components that pipelines run beside those here: what
/// looks at a picture's content before it is shown, what an image prompt goes through, a watermark.
const KNOWN: &[&str] = &[
    "add_watermarker",
    "feature_extractor",
    "force_zeros_for_empty_prompt",
    "image_encoder",
    "requires_aesthetics_score",
    "requires_safety_checker",
    "safety_checker",
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "unet",
    "vae",
];

/// Entries of the index that are known and not implemented.
const FIXED: &[(&str, &[&str])] = &[
    // The picture to change is multiplied by the scaling factor then.
    ("is_cosxl_edit", &[]),
];

/// A model folder whose kind is known.
pub(crate) struct ModelFolder<'a> {
    files: &'a Files,
    recipe: &'static Recipe,
    index: ConfigFile,
    elsewhere: &'a ComponentFolders,
}

/// Files of one component: the folder `folder` of `files`, or `files` itself.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Its folder's name in a model.
    pub(crate) name: String,
    files: Files,
    folder: String,
    /// Its class, which is an index's whatever its own file says; `None` where none names one.
    class: Option<String>,
    /// `true` of one that is not the model's own.
    is_elsewhere: bool,
}

/// Files of one text encoder and its tokenizer.
#[derive(Debug, Clone)]
pub(crate) struct TextPart {
    pub(crate) encoder: Part,
    tokenizer: Tokenizer,
}

/// Files of a tokenizer, and its folder's name in a model.
#[derive(Debug, Clone)]
struct Tokenizer {
    files: Files,
    name: &'static str,
}

impl Tokenizer {
    /// Takes `files` where a tokenizer is among them.
    fn replace(&mut self, files: Files) {
        if files.has("tokenizer.json") || files.has("vocab.json") {
            self.files = files;
        }
    }
}

impl Part {
    /// The component's own folder.
    pub(crate) fn files(&self) -> Files {
        match self.folder.as_str() {
            "" => self.files.clone(),
            folder => self.files.folder(folder),
        }
    }

    fn config(&self) -> Result<ConfigFile> {
        Ok(ConfigFile::read(&self.files(), "config.json")?)
    }
}

impl<'a> ModelFolder<'a> {
    /// The folder `files`, by what its index says, with components from `elsewhere` in place of its
    /// own.
    pub(crate) fn open(
        files: &'a Files,
        elsewhere: &'a ComponentFolders,
        unknown: UnknownSettings,
    ) -> Result<Self> {
        let index = ConfigFile::read(files, INDEX)?.on_unknown(unknown);
        let class = index.text("_class_name")?;
        let mut recipes = RECIPES.iter();
        let found = recipes.find(|recipe| Some(recipe.class) == class.as_deref());
        let Some(recipe) = found else {
            let known = RECIPES.iter().map(|recipe| recipe.class);
            let kind = class.as_deref().and_then(others::kind);
            return Err(unsupported(
                &index,
                "_class_name",
                class.as_deref(),
                kind,
                known,
            ));
        };
        index.refuse_others(KNOWN, FIXED)?;
        Ok(Self {
            files,
            recipe,
            index,
            elsewhere,
        })
    }

    /// All that the kind of pipeline says to its runs.
    pub(crate) fn kind(&self) -> Kind {
        Kind {
            defaults: self.recipe.defaults,
            beside: self.recipe.beside,
            distilled: Distilled::find(self.files),
        }
    }

    /// The denoiser's files.
    pub(crate) fn denoiser_part(&self) -> Result<Part> {
        self.part(DENOISER, self.elsewhere.denoiser.as_deref())
    }

    /// The autoencoder's files.
    pub(crate) fn autoencoder_part(&self) -> Result<Part> {
        self.part(AUTOENCODER, self.elsewhere.autoencoder.as_deref())
    }

    /// The component in the folder `folder`, from the folder `elsewhere` where there is one: that
    /// of a model, or the component's own.
    fn part(&self, folder: &str, elsewhere: Option<&Path>) -> Result<Part> {
        let Some(path) = elsewhere else {
            return Ok(Part {
                name: folder.into(),
                files: self.files.clone(),
                folder: folder.into(),
                class: class_in(&self.index, folder)?,
                is_elsewhere: false,
            });
        };
        let files = model_path::component_files(path)?;
        let of_model = files.folder(folder).has("config.json");
        let class = match of_model && files.has(INDEX) {
            true => class_in(&ConfigFile::read(&files, INDEX)?, folder)?,
            false => None,
        };
        // What is in no sub-folder, and nothing else either, is missed under its name.
        let is_component = !of_model && files.has("config.json");
        Ok(Part {
            name: folder.into(),
            files,
            folder: if is_component { "" } else { folder }.into(),
            class,
            is_elsewhere: true,
        })
    }

    /// The text encoders that there are. Of several the index names those that a model has: the
    /// refiner has the second alone.
    pub(crate) fn text_parts(&self) -> Result<Vec<TextPart>> {
        let all = self.recipe.text_encoders;
        let mut own = Vec::new();
        for [folder, tokenizer] in all {
            let encoder = self.part(folder, None)?;
            if all.len() == 1 || encoder.class.is_some() {
                let tokenizer = Tokenizer {
                    files: self.files.folder(tokenizer),
                    name: tokenizer,
                };
                own.push(TextPart { encoder, tokenizer });
            }
        }
        if own.is_empty() {
            let expected = "the class of a text encoder";
            return Err(self.index.error(all[0][0], expected).into());
        }
        match self.elsewhere.text_encoder.as_deref() {
            Some(path) => self.text_parts_from(own, path),
            None => Ok(own),
        }
    }

    /// The text encoders `own` with those of the folder `path` in place of those of the same names;
    /// where it is a single encoder's, in place of the one of its class.
    fn text_parts_from(&self, mut own: Vec<TextPart>, path: &Path) -> Result<Vec<TextPart>> {
        let files = model_path::component_files(path)?;
        let has = |part: &TextPart| files.folder(&part.encoder.folder).has("config.json");
        if !own.iter().any(has) && files.has("config.json") {
            let index = of_its_class(&own, &files)?;
            let part = &mut own[index];
            part.encoder = Part {
                name: part.encoder.name.clone(),
                files: files.clone(),
                folder: String::new(),
                class: None,
                is_elsewhere: true,
            };
            part.tokenizer.replace(files);
            return Ok(own);
        }
        // Where there is none of these names the first is missed.
        let none = !own.iter().any(has);
        for (k, part) in own.iter_mut().enumerate() {
            if has(part) || (none && k == 0) {
                part.encoder = self.part(&part.encoder.folder.clone(), Some(path))?;
                part.tokenizer.replace(files.folder(part.tokenizer.name));
            }
        }
        Ok(own)
    }

    /// The scheduler's file: values as they are in it or diffusers corrects them, the class that of
    /// the index.
    pub(crate) fn scheduler(&self) -> Result<SchedulerConfig> {
        let files = self.files.folder(SCHEDULER);
        let mut config = files.text("scheduler_config.json")?;
        if let Some(class) = class_in(&self.index, SCHEDULER)? {
            let class = serde_json::Value::from(class).to_string();
            config = with_setting(&config, "_class_name", &class);
        }
        for (key, value) in self.recipe.corrections {
            config = with_setting(&config, key, value);
        }
        Ok(SchedulerConfig::from_json_verbatim(&config)?)
    }

    /// Stand-in for a negative prompt that was not given.
    fn absent(&self) -> Result<AbsentPrompt> {
        let Some(default) = self.recipe.zeros else {
            return Ok(AbsentPrompt::Empty);
        };
        let zeros = self.index.flag("force_zeros_for_empty_prompt", default)?;
        Ok(match zeros {
            true => AbsentPrompt::Zeros,
            false => AbsentPrompt::Empty,
        })
    }

    /// The text encoder of `parts`, each loaded as `options` says of its folder.
    pub(crate) fn text_encoder(
        &self,
        parts: &[TextPart],
        options: impl Fn(&str) -> LoadOptions,
    ) -> Result<Opened<dyn TextEncoder>> {
        let open = |part: &TextPart| {
            let Part { folder, class, .. } = &part.encoder;
            let mut file = part.encoder.config()?;
            let mut open = TEXT_ENCODERS[0].1;
            if let Some(class) = class {
                open = row(TEXT_ENCODERS, class, &self.index, folder)?;
                file = file.with("architectures", vec![class.clone()]);
            }
            let options = options(&part.encoder.name);
            let encoder = open(&part.encoder, &part.tokenizer.files, file, &options)?;
            Ok(encoder.with_reading(self.recipe.reading)?)
        };
        let encoders: Vec<ClipTextFiles> = parts.iter().map(open).collect::<Result<_>>()?;
        let absent = self.absent()?;
        let mut encoders = encoders.into_iter();
        Ok(match (encoders.next(), encoders.next()) {
            (Some(first), Some(second)) => {
                Box::new(ClipPairFiles::new(first, second)?.with_absent(absent))
            }
            (Some(only), None) => Box::new(only.with_absent(absent)),
            (None, _) => return Err(self.index.error("text_encoder", "a class").into()),
        })
    }

    /// The denoiser in `part`.
    pub(crate) fn denoiser(
        &self,
        part: &Part,
        training: Training,
        options: &LoadOptions,
    ) -> Result<Opened<dyn Denoiser>> {
        let (open, mut file) = self.opener(DENOISERS, part)?;
        if self.recipe.corrects_sample_size && is_doubtful(&file)? {
            file = file.with("sample_size", 64);
        }
        let embeds_aesthetic_score =
            self.recipe.zeros.is_some() && self.index.flag("requires_aesthetics_score", false)?;
        let training = Training {
            embeds_aesthetic_score,
            ..training
        };
        open(&part.files, &part.folder, file, training, options)
    }

    /// The autoencoder in `part`.
    pub(crate) fn autoencoder(
        &self,
        part: &Part,
        cutting: Cutting,
        options: &LoadOptions,
    ) -> Result<Opened<dyn Autoencoder>> {
        let (open, file) = self.opener(AUTOENCODERS, part)?;
        let own = self.files.folder(AUTOENCODER);
        let scaling_factor = match part.is_elsewhere && own.has("config.json") {
            true => ConfigFile::read(&own, "config.json")?.get("scaling_factor", "a number")?,
            false => None,
        };
        let cutting = Cutting {
            scaling_factor,
            ..cutting
        };
        open(&part.files, &part.folder, file, cutting, options)
    }

    /// The opener of the component in `part` and its configuration, both by its class; the first
    /// of `table` is meant where nothing names one.
    fn opener<O: Copy>(&self, table: &[(&str, O)], part: &Part) -> Result<(O, ConfigFile)> {
        let file = part.config()?;
        if let Some(class) = &part.class {
            let open = row(table, class, &self.index, &part.folder)?;
            return Ok((open, file.with("_class_name", class.clone())));
        }
        let open = match file.text("_class_name")? {
            Some(class) => row(table, &class, &file, "_class_name")?,
            None => table[0].1,
        };
        Ok((open, file))
    }
}

/// The class of the component in the folder `folder` that the index `index` names, if it does.
fn class_in(index: &ConfigFile, folder: &str) -> Result<Option<String>> {
    let expected = "a library's name and a class's name";
    let entry: Option<[Option<String>; 2]> = index.get(folder, expected)?;
    Ok(entry.and_then(|[_, class]| class))
}

/// The one of `own` whose class is that of the text encoder in the folder `files`.
fn of_its_class(own: &[TextPart], files: &Files) -> Result<usize> {
    if own.len() == 1 {
        return Ok(0);
    }
    let file = ConfigFile::read(files, "config.json")?;
    let expected = "a list of class names";
    let classes: Vec<String> = file.get("architectures", expected)?.unwrap_or_default();
    let is_of = |part: &TextPart| part.encoder.class.as_ref() == classes.first();
    let mut found = (0..own.len()).filter(|k| is_of(&own[*k]));
    match (found.next(), found.next()) {
        (Some(index), None) => Ok(index),
        _ => {
            let known = own.iter().filter_map(|part| part.encoder.class.as_deref());
            let known: Vec<&str> = known.collect();
            let expected = format!(
                "the class of one of the model's encoders: {}",
                known.join(", ")
            );
            Err(file.error("architectures", &expected).into())
        }
    }
}

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

/// The text of a settings file with `key` as `value`, which is JSON: of two values of one name the
/// last counts, in JSON as it is read here and by Python.
fn with_setting(text: &str, key: &str, value: &str) -> String {
    let Some(settings) = text.trim_end().strip_suffix('}') else {
        // No object; its reader says so.
        return text.into();
    };
    let comma = if settings.trim_end().ends_with('{') {
        ""
    } else {
        ","
    };
    format!("{settings}{comma} \"{key}\": {value} }}")
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

/// Facts of a denoiser's training that its own file does not say: the meaning of its output, the
/// noise levels, whether it was told how good a picture is.
#[derive(Debug, Clone)]
pub(crate) struct Training {
    pub(crate) schedule: Arc<NoiseSchedule>,
    pub(crate) parameterization: Parameterization,
    pub(crate) embeds_aesthetic_score: bool,
}

/// Memory that an autoencoder may take, and its way to cut pictures to keep within.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cutting {
    pub(crate) tiling: Tiling,
    pub(crate) limits: Limits,
    /// The scaling factor of the model's own autoencoder, for the file of another that says none.
    pub(crate) scaling_factor: Option<f64>,
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
static AUTOENCODERS: &[(&str, Opener<dyn Autoencoder, Cutting>)] = &[
    (
        "AutoencoderKL",
        |files, folder, mut file, cutting, options| {
            if let Some(factor) = cutting
                .scaling_factor
                .filter(|_| !file.has("scaling_factor"))
            {
                file = file.with("scaling_factor", factor);
            }
            let vae = VaeFiles::open_configured(files, folder, file, options)?;
            let vae = vae.with_tiling(cutting.tiling).with_limits(cutting.limits);
            Ok(Box::new(vae))
        },
    ),
    // Its latents are those of the model, scaled already: it takes no factor from elsewhere.
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

impl Source<dyn TextEncoder> for ClipPairFiles {
    fn spec(&self) -> &() {
        &()
    }

    fn load(&self) -> Result<(Arc<dyn TextEncoder>, WeightBytes)> {
        let encoders = ClipPairFiles::load(self)?;
        let weights = encoders.weights();
        Ok((Arc::new(encoders), weights))
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
