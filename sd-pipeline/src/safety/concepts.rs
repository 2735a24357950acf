use std::sync::Arc;

use burn::tensor::Device;
use image::RgbImage;
use sd_core::WeightBytes;
use sd_models::{
    Error as ModelError, Files, LoadOptions, OutputReplay, SafetyCheckerFiles, SafetyCheckerModel,
    SafetyScores,
};

use super::{SafetyChecker, Verdict};
use crate::devices::compiles_kernels;
use crate::work::{Footprint, Work};
use crate::{Error, ImageProcessor, Result, Source};

/// Diffusers' `StableDiffusionSafetyChecker`: CLIP's tower of pictures, and what its embedding must
/// not come near to.
///
/// Its 17 concepts and the 3 that make it look more strictly are known as embeddings alone: they
/// are called by their numbers.
#[derive(Debug)]
pub struct ConceptChecker {
    model: SafetyCheckerModel,
    processor: ImageProcessor,
    device: Device,
}

impl ConceptChecker {
    /// Opens the checker of a model folder, `checker` and `processor` being the names of the two
    /// sub-folders: `safety_checker` and `feature_extractor`. It computes as `options` say.
    ///
    /// # Errors
    /// [`Error::Model`]: files are missing, are not what they should be, or the tensors are not the
    /// model's.
    pub fn open(
        files: &Files,
        checker: &str,
        processor: &str,
        options: &LoadOptions,
    ) -> Result<Self> {
        let files = ConceptCheckerFiles::open(files, checker, processor, options)?;
        Ok(files.read()?.0)
    }

    /// The scores of `picture`.
    ///
    /// # Errors
    /// [`Error::Component`] for a picture that cannot be prepared, and where the model's numbers
    /// cannot be read or are not finite.
    pub fn scores(&self, picture: &RgbImage) -> Result<SafetyScores> {
        let pixels = self.processor.pixels(picture, &self.device)?;
        let scores = self.model.forward(pixels)?.pop();
        let lost = || sd_core::Error::backend("the safety checker", "it gave no scores");
        Ok(scores.ok_or_else(lost)?)
    }
}

impl SafetyChecker for ConceptChecker {
    fn check(&self, picture: &RgbImage) -> Result<Verdict> {
        let scores = self.scores(picture)?;
        let mut verdict = Verdict::new(scores.is_flagged());
        for (kind, scores) in [
            ("special concept", scores.special),
            ("concept", scores.concepts),
        ] {
            for (k, score) in scores.into_iter().enumerate() {
                verdict = verdict.with(format!("{kind} {k}"), score);
            }
        }
        Ok(verdict)
    }
}

/// A concept checker's files, found sound; the weights are still in them.
pub(crate) struct ConceptCheckerFiles {
    files: SafetyCheckerFiles,
    processor: ImageProcessor,
}

impl ConceptCheckerFiles {
    pub(crate) fn open(
        files: &Files,
        checker: &str,
        processor: &str,
        options: &LoadOptions,
    ) -> Result<Self> {
        let folder = files.folder(processor);
        let files = SafetyCheckerFiles::open(files, checker, options)?;
        let processor = ImageProcessor::read(&folder, options.unknown_settings)?;
        check_size(&folder, &processor, files.config().vision().image_size)?;
        Ok(Self { files, processor })
    }

    fn read(&self) -> Result<(ConceptChecker, WeightBytes)> {
        let (model, bytes) = self.files.load()?;
        let checker = ConceptChecker {
            model,
            processor: self.processor.clone(),
            device: self.files.device().clone(),
        };
        Ok((checker, bytes))
    }
}

impl Source<dyn SafetyChecker> for ConceptCheckerFiles {
    fn spec(&self) -> &() {
        &()
    }

    fn load(&self) -> Result<(Arc<dyn SafetyChecker>, WeightBytes)> {
        let (checker, bytes) = self.read()?;
        Ok((Arc::new(checker), bytes))
    }

    fn footprint(&self) -> Option<&dyn Footprint> {
        Some(self)
    }

    fn uses_threads(&self) -> bool {
        !compiles_kernels(self.files.device())
    }
}

impl Footprint for ConceptCheckerFiles {
    fn device(&self) -> &Device {
        self.files.device()
    }

    fn weight_bytes(&self) -> Option<WeightBytes> {
        self.files.weight_bytes().ok()
    }

    fn work_bytes(&self, _: Work, _: &mut OutputReplay) -> Option<u64> {
        None
    }
}

/// Refuses an image processor in the folder `files` that does not make pictures of `side` pixels.
pub(crate) fn check_size(files: &Files, processor: &ImageProcessor, side: usize) -> Result<()> {
    let found = processor.output_size();
    if found.map(|found| found.map(|side| side as usize)) == Some([side; 2]) {
        return Ok(());
    }
    let found = found.map_or("not fixed".into(), |[height, width]| {
        format!("{height}x{width}")
    });
    let expected = format!("expected {side}x{side}, the model's image_size");
    let file = files.path("preprocessor_config.json");
    Err(Error::Model(ModelError::config(
        file,
        "crop_size",
        found,
        expected,
    )))
}
