//! Changes that people share, merged into a pipeline's weights.

use std::path::Path;

use sd_core::{Denoiser, TextEncoder};
use sd_models::TextualInversion;
use sd_models::lora::{AdapterReport, BlockScales, LoraFile, LoraStrength, Matches};

use crate::beside::Beside;
use crate::slot::Component;
use crate::synchronized::synchronized;
use crate::{Error, Pipeline, Result, Slot, Source, StepScales};

/// LoRA, or one of its kin, and how strongly it changes a model.
///
/// ```no_run
/// use sd_pipeline::{Lora, Request};
/// # fn draw(pipeline: &sd_pipeline::Pipeline) -> sd_pipeline::Result<()> {
///
/// let style = Lora::open("watercolour.safetensors")?.strength(0.8);
/// let painted = pipeline.with_loras(&[style])?;
/// painted.generate(&Request::for_pipeline(&painted, "a lighthouse in a storm"))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Lora {
    /// The file.
    pub file: LoraFile,
    /// Factor of all its changes: 1 as trained, 0 none, less than 0 the other way.
    pub strength: f32,
    /// Further factors of the networks' blocks.
    pub blocks: BlockScales,
    /// Further factors over the steps of a run, in the denoiser; of a LoRA that is merged none.
    pub steps: StepScales,
    /// `true` where modules that the model does not have are a warning. Nothing matched is an error
    /// all the same.
    pub lenient: bool,
}

impl Lora {
    /// The file at `path` at strength 1, all of which must fit.
    ///
    /// # Errors
    /// As [`LoraFile::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self {
            file: LoraFile::open(path)?,
            strength: 1.0,
            blocks: BlockScales::default(),
            steps: StepScales::default(),
            lenient: false,
        })
    }

    /// The same at another strength.
    #[must_use]
    pub fn strength(self, strength: f32) -> Self {
        Self { strength, ..self }
    }

    /// The strength of each block.
    fn strengths(&self) -> Result<LoraStrength> {
        if !self.strength.is_finite() {
            let expected = "expected a finite number, 1 as trained";
            return Err(sd_core::Error::invalid("lora strength", self.strength, expected).into());
        }
        Ok(LoraStrength {
            whole: self.strength,
            blocks: self.blocks.clone(),
        })
    }

    /// Its name in records: the file's without the ending, and the strength behind it with all further
    /// factors.
    fn name(&self) -> String {
        let stem = self.file.path().file_stem().unwrap_or_default();
        let mut name = format!("{}:{}", stem.to_string_lossy(), self.strength);
        let factors = [self.blocks.to_string(), self.steps.to_string()];
        let mut factors = factors.iter().filter(|factors| !factors.is_empty());
        if let Some(first) = factors.next() {
            name += &format!(":{first}");
        }
        factors.for_each(|more| name += &format!(",{more}"));
        name
    }

    fn check(&self, report: &AdapterReport, model: Option<&'static str>) -> Result<()> {
        if report.matched > 0 && (self.lenient || report.is_complete()) {
            if !report.is_complete() {
                tracing::warn!(file = %self.file.path().display(), "{report}");
            }
            return Ok(());
        }
        Err(Error::Adapter {
            path: self.file.path().into(),
            report: Box::new(report.clone()),
            model,
        })
    }
}

/// Sources of the components that adapters change; `None` for what is not read from files.
pub(crate) struct Changed {
    pub(crate) text_encoder: Option<Box<dyn Source<dyn TextEncoder>>>,
    pub(crate) denoiser: Option<Box<dyn Source<dyn Denoiser>>>,
    pub(crate) reports: Vec<AdapterReport>,
}

/// Merges `loras`, one after the other, into the components of these sources.
pub(crate) fn merge(
    text_encoder: Option<&dyn Source<dyn TextEncoder>>,
    denoiser: Option<&dyn Source<dyn Denoiser>>,
    loras: &[Lora],
) -> Result<Changed> {
    let mut changed = Changed {
        text_encoder: None,
        denoiser: None,
        reports: Vec::new(),
    };
    for lora in loras {
        let strength = lora.strengths()?;
        if !lora.steps.is_empty() {
            let expected = "expected none: merged weights are the same in all steps, a LoRA at run \
                            time need not be";
            let name = "the steps of a LoRA to merge";
            return Err(sd_core::Error::invalid(name, &lora.steps, expected).into());
        }
        let mut matches = lora.file.unmatched();
        let file = &lora.file;
        step(
            &mut changed.text_encoder,
            text_encoder,
            file,
            &strength,
            &mut matches,
        )?;
        step(
            &mut changed.denoiser,
            denoiser,
            file,
            &strength,
            &mut matches,
        )?;
        file.check_blocks(&strength, &matches)?;
        changed.reports.push(lora.file.report(&matches));
    }
    Ok(changed)
}

/// Merges `lora` into what the ones before it made of `original`.
fn step<T: Component + ?Sized>(
    changed: &mut Option<Box<dyn Source<T>>>,
    original: Option<&dyn Source<T>>,
    lora: &LoraFile,
    strength: &LoraStrength,
    matches: &mut Matches,
) -> Result<()> {
    let Some(source) = changed.as_deref().or(original) else {
        return Ok(());
    };
    let before = matches.found();
    let next = source.with_lora(lora, strength, matches)?;
    // One in which nothing was found stays what it is, and need not be read again.
    if matches.found() > before && next.is_some() {
        *changed = next;
    }
    Ok(())
}

/// The family whose prompts' vectors are so wide.
pub(crate) fn family(width: usize) -> Option<&'static str> {
    match width {
        768 => Some("sd1"),
        1024 => Some("sd2"),
        1280 => Some("sdxl_refiner"),
        2048 => Some("sdxl"),
        _ => None,
    }
}

/// Checks that each of `loras` was matched as far as it wants. `width` is that of the prompt's
/// vectors, by which families differ.
pub(crate) fn check(loras: &[Lora], reports: &[AdapterReport], width: usize) -> Result<()> {
    let model = family(width);
    let mut all = loras.iter().zip(reports);
    all.try_for_each(|(lora, report)| lora.check(report, model))
}

/// The text encoder's source with `words` more; `None` where there are none, or nobody to read them.
pub(crate) fn teach(
    text_encoder: Option<&dyn Source<dyn TextEncoder>>,
    words: &[TextualInversion],
) -> Result<Option<Box<dyn Source<dyn TextEncoder>>>> {
    let mut taught: Option<Box<dyn Source<dyn TextEncoder>>> = None;
    for word in words {
        let source = taught.as_deref().or(text_encoder);
        let next = source.map(|source| source.with_word(word)).transpose()?;
        match next.flatten() {
            Some(next) => taught = Some(next),
            None => {
                let parts = vec!["the vectors of a textual inversion"];
                let reader = "a text encoder of the program's own";
                return Err(sd_core::Error::Unread { reader, parts }.into());
            }
        }
    }
    Ok(taught)
}

/// Names by which records tell adapters: those of LoRAs, and words.
pub(crate) fn names<'a>(
    loras: &'a [Lora],
    words: &'a [TextualInversion],
) -> impl Iterator<Item = String> + 'a {
    let loras = loras.iter().map(Lora::name);
    loras.chain(words.iter().map(|word| word.word().into()))
}

impl Pipeline {
    /// Adapters that this pipeline draws with, as [records](crate::Record::adapters) name them: LoRAs
    /// with their strengths, and words, in the order in which they were given.
    pub fn adapters(&self) -> &[String] {
        &self.adapters
    }

    /// The same pipeline with `words` in its text encoder's vocabulary: in a prompt each stands for
    /// what its file was taught. This one stays as it is and shares all else.
    ///
    /// # Errors
    /// [`sd_models::Error::Adapter`] for a word that the vocabulary has already, or whose vectors are
    /// not as wide as the model's tokens; [`sd_core::Error::Unread`] where the text encoder is the
    /// program's own; those of reading the files.
    pub fn with_words(&self, words: &[TextualInversion]) -> Result<Self> {
        let mut changed = self.clone();
        if let Some(source) = teach(self.text_encoder.source(), words)? {
            changed.text_encoder = reloaded(&self.text_encoder, source)?;
        }
        changed.adapters.extend(names(&[], words));
        Ok(changed)
    }

    /// The same pipeline with the changes of `loras` in its weights, one after the other. This one
    /// stays as it is and shares all that does not change, so that one may have many looks of one
    /// model and take another with each picture.
    ///
    /// The changes are merged while the weights are read again, which takes as long as opening the
    /// model does; drawing takes no longer afterwards. With [`Residency`](crate::Residency) other
    /// than always they are read when they are needed.
    ///
    /// # Errors
    /// [`Error::Adapter`] with the report when nothing of a file matches the model, or not all and
    /// it is not [lenient](Lora::lenient); those of reading the files.
    pub fn with_loras(&self, loras: &[Lora]) -> Result<Self> {
        let mut changed = self.clone();
        let merged = merge(self.text_encoder.source(), self.denoiser.source(), loras)?;
        let spec = self.denoiser.spec();
        check(loras, &merged.reports, spec.context_width)?;
        changed.adapters.extend(names(loras, &[]));
        if let Some(source) = merged.text_encoder {
            changed.text_encoder = reloaded(&self.text_encoder, source)?;
        }
        if let Some(source) = merged.denoiser {
            let device = [&spec.device];
            changed.denoiser = synchronized(&device, "merging a LoRA", || {
                reloaded(&self.denoiser, source)
            })?;
        }
        Ok(changed)
    }

    /// The same pipeline with `loras` beside its layers: their changes are added to what the layers
    /// make, and no weight is read again or touched. This one stays as it is and shares all weights, so
    /// that strengths, even of blocks and steps, and the LoRAs themselves may be others with every
    /// picture at no cost but that of opening a file: what is read of one stays in memory as long as
    /// its [`LoraFile`] is open. What is drawn is what [merged](Self::with_loras) weights draw, but for
    /// rounding; each step takes somewhat longer, the more the higher the rank.
    ///
    /// They come on top of what this pipeline has.
    ///
    /// # Errors
    /// As [`with_loras`](Self::with_loras), and [`sd_models::Error::Adapter`] for changes that are no
    /// sum with the weights (DoRA, OFT, BOFT) or are of a normalisation: these can only be merged.
    pub fn with_loras_at_run_time(&self, loras: &[Lora]) -> Result<Self> {
        let mut changed = self.clone();
        let mut reports = Vec::new();
        for lora in loras {
            let (file, strength) = (&lora.file, lora.strengths()?);
            let mut matches = file.unmatched();
            let mut beside = Beside {
                text: Vec::new(),
                denoiser: Vec::new(),
                steps: lora.steps.clone(),
            };
            if let Some(source) = self.text_encoder.source() {
                beside.text = source.lora_beside(file, &strength, &mut matches)?;
            }
            if let Some(source) = self.denoiser.source() {
                beside.denoiser = source.lora_beside(file, &strength, &mut matches)?;
            }
            file.check_blocks(&strength, &matches)?;
            reports.push(file.report(&matches));
            changed.beside.push(beside);
            changed
                .adapters
                .push(format!("{} at run time", lora.name()));
        }
        check(loras, &reports, self.denoiser.spec().context_width)?;
        Ok(changed)
    }

    /// Report on each of `words`: whether this pipeline's text encoder can learn it. Nothing is
    /// changed or read.
    pub fn match_words(&self, words: &[TextualInversion]) -> Vec<AdapterReport> {
        let report = |word: &TextualInversion| {
            let taught = teach(self.text_encoder.source(), std::slice::from_ref(word));
            AdapterReport {
                kind: "textual_inversion",
                family: word.family().map(Into::into),
                matched: usize::from(taught.is_ok()),
                unmatched: Vec::new(),
                misshapen: taught.err().iter().map(ToString::to_string).collect(),
            }
        };
        words.iter().map(report).collect()
    }

    /// Report on each of `loras`: what of it this pipeline's model has. Nothing is changed or read.
    ///
    /// # Errors
    /// As [`with_loras`](Self::with_loras), but for incomplete matches.
    pub fn match_loras(&self, loras: &[Lora]) -> Result<Vec<AdapterReport>> {
        let whole = |lora: &Lora| Lora {
            steps: StepScales::default(),
            ..lora.clone()
        };
        let loras: Vec<Lora> = loras.iter().map(whole).collect();
        let merged = merge(self.text_encoder.source(), self.denoiser.source(), &loras)?;
        Ok(merged.reports)
    }
}

fn reloaded<T: Component + ?Sized>(slot: &Slot<T>, source: Box<dyn Source<T>>) -> Result<Slot<T>> {
    let changed = Slot::boxed(source, slot.residency());
    changed.load()?;
    Ok(changed)
}
