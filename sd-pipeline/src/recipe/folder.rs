//! A model's folder, read by the rows and tables of [`recipe`](super).

use std::path::{Path, PathBuf};

use sd_core::{AbsentPrompt, Autoencoder, Denoiser, TextEncoder};
use sd_models::vae::{Limits, Tiling};
use sd_models::{
    ClipPairFiles, ClipTextFiles, ConfigFile, Files, LoadOptions, PredictionType, SingleComponent,
};
use sd_schedulers::SchedulerConfig;

use super::part::{Part, TextPart, Tokenizer, of_its_class};
use super::rows::{RECIPES, Recipe};
use super::{
    AUTOENCODERS, DENOISERS, Distilled, Fitting, Opened, TEXT_ENCODERS, Training, others, row,
    safety, unsupported,
};
use crate::defaults::Kind;
use crate::model_path::INDEX;
use crate::safety::SafetyChecker;
use crate::{ComponentFolders, LatentRgb, OpenOptions, Result, model_path};

/// Component folders of diffusers' layout.
const SCHEDULER: &str = "scheduler";
const DENOISER: &str = "unet";
const AUTOENCODER: &str = "vae";
pub(super) const SAFETY_CHECKER: &str = "safety_checker";

/// Entries of the index that are read, and components that pipelines run beside those here: what
/// looks at a picture's content before it is shown, what an image prompt goes through, a watermark.
const KNOWN: &[&str] = &[
    "add_watermarker",
    "feature_extractor",
    "force_zeros_for_empty_prompt",
    "image_encoder",
    "is_cosxl_edit",
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

/// A model folder whose kind is known.
pub(crate) struct ModelFolder<'a> {
    files: &'a Files,
    recipe: &'static Recipe,
    index: ConfigFile,
    /// Place of the folder, or of the file that it stands for.
    path: Option<&'a Path>,
    elsewhere: &'a ComponentFolders,
    /// Settings for components in single files.
    config: Option<Files>,
    prediction: Option<PredictionType>,
}

impl<'a> ModelFolder<'a> {
    /// The folder `files` of the model at `path`, by what its index says, with components from
    /// elsewhere in place of its own where the options say so.
    pub(crate) fn open(
        files: &'a Files,
        path: Option<&'a Path>,
        options: &'a OpenOptions,
    ) -> Result<Self> {
        let index = ConfigFile::read(files, INDEX)?.on_unknown(options.unknown_settings);
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
        index.refuse_others(KNOWN, &[])?;
        let config = options.config.as_deref();
        Ok(Self {
            files,
            recipe,
            index,
            path,
            elsewhere: &options.folders,
            config: config.map(model_path::folder).transpose()?,
            prediction: options.prediction,
        })
    }

    /// All that the kind of pipeline says to its runs.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) for an entry of the index that says no such thing.
    pub(crate) fn kind(&self) -> Result<Kind> {
        Ok(Kind {
            defaults: self.recipe.defaults,
            beside: self.recipe.beside,
            scales_picture: self.index.flag("is_cosxl_edit", false)?,
            distilled: Distilled::find(self.files, self.path),
        })
    }

    /// Colours of the latents of this kind of model.
    pub(crate) fn latent_rgb(&self) -> LatentRgb {
        (self.recipe.latent_rgb)()
    }

    /// The denoiser's files.
    pub(crate) fn denoiser_part(&self) -> Result<Part> {
        let elsewhere = self.elsewhere.denoiser.as_deref();
        self.part(DENOISER, elsewhere, SingleComponent::Denoiser)
    }

    /// The autoencoder's files.
    pub(crate) fn autoencoder_part(&self) -> Result<Part> {
        let elsewhere = self.elsewhere.autoencoder.as_deref();
        self.part(AUTOENCODER, elsewhere, SingleComponent::Autoencoder)
    }

    /// The model's own component in the folder `folder`.
    fn own_part(&self, folder: &str) -> Result<Part> {
        Ok(Part {
            name: folder.into(),
            files: self.files.clone(),
            folder: folder.into(),
            class: class_in(&self.index, folder)?,
            is_elsewhere: false,
        })
    }

    /// The component in the folder `folder`, from `elsewhere` where that is given: the folder or the
    /// file of a model, or the component's own.
    fn part(&self, folder: &str, elsewhere: Option<&Path>, kind: SingleComponent) -> Result<Part> {
        let Some(path) = elsewhere else {
            return self.own_part(folder);
        };
        let files = model_path::component_files(path, kind, self.config.as_ref())?;
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
            let encoder = self.own_part(folder)?;
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
        let kind = SingleComponent::TextEncoder;
        let files = model_path::component_files(path, kind, self.config.as_ref())?;
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
                part.encoder = self.part(&part.encoder.folder.clone(), Some(path), kind)?;
                part.tokenizer.replace(files.folder(part.tokenizer.name));
            }
        }
        Ok(own)
    }

    /// The scheduler's file: values as they are in it or diffusers corrects them, the class that of
    /// the index.
    pub(crate) fn scheduler(&self) -> Result<SchedulerConfig> {
        let files = self.files.folder(SCHEDULER);
        let mut settings = (self.recipe.corrections)();
        if let Some(class) = class_in(&self.index, SCHEDULER)? {
            settings.push(("_class_name", class.into()));
        }
        if let Some(prediction) = self.prediction {
            settings.push(("prediction_type", prediction.name().into()));
        }
        let text = files.text("scheduler_config.json")?;
        Ok(SchedulerConfig::from_json_with(&text, settings)?)
    }

    /// The scheduler's file.
    pub(crate) fn scheduler_path(&self) -> PathBuf {
        self.files.folder(SCHEDULER).path("scheduler_config.json")
    }

    /// `true` where the scheduler's file says that the noise schedule ends in pure noise.
    pub(crate) fn zero_terminal_snr(&self) -> Result<bool> {
        let files = self.files.folder(SCHEDULER);
        let file = ConfigFile::read(&files, "scheduler_config.json")?;
        Ok(file.flag("rescale_betas_zero_snr", false)?)
    }

    /// `true` where the index names a safety checker.
    pub(crate) fn has_safety_checker(&self) -> Result<bool> {
        Ok(class_in(&self.index, SAFETY_CHECKER)?.is_some())
    }

    /// What the scheduler's file and the index say of the denoiser's training.
    pub(crate) fn training(&self, scheduler: &SchedulerConfig) -> Result<Training> {
        let scores = self.recipe.scores && self.index.flag("requires_aesthetics_score", false)?;
        Ok(Training {
            schedule: scheduler.noise_schedule()?,
            parameterization: scheduler.parameterization()?,
            embeds_aesthetic_score: scores,
        })
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
        open(&part.files, &part.folder, file, training, options)
    }

    /// The autoencoder in `part`.
    pub(crate) fn autoencoder(
        &self,
        part: &Part,
        tiling: Tiling,
        limits: Limits,
        options: &LoadOptions,
    ) -> Result<Opened<dyn Autoencoder>> {
        let (open, file) = self.opener(AUTOENCODERS, part)?;
        let fitting = Fitting {
            tiling,
            limits,
            scaling_factor: self.scaling_factor(part, &file)?,
        };
        open(&part.files, &part.folder, file, fitting, options)
    }

    /// The safety checker, if the index names one.
    pub(crate) fn safety_checker(
        &self,
        options: &LoadOptions,
    ) -> Result<Option<Opened<dyn SafetyChecker>>> {
        match class_in(&self.index, SAFETY_CHECKER)? {
            Some(class) => safety::open(self.files, &self.index, &class, options),
            None => Ok(None),
        }
    }

    /// The scaling factor of the model's own autoencoder for the one in `part`, whose file is `file`,
    /// where that comes from elsewhere. Another kind of network has factors of another kind.
    fn scaling_factor(&self, part: &Part, file: &ConfigFile) -> Result<Option<f64>> {
        let own = self.own_part(AUTOENCODER)?;
        if !part.is_elsewhere || !own.files().has("config.json") {
            return Ok(None);
        }
        let (class, own_file) = ("_class_name", own.config()?);
        let own_class = match own.class {
            Some(class) => Some(class),
            None => own_file.text(class)?,
        };
        match own_class == file.text(class)? {
            true => Ok(own_file.get("scaling_factor", "a number")?),
            false => Ok(None),
        }
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
