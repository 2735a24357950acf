//! The safety checker that a model folder ships.

use sd_models::{ConfigFile, Files, LoadOptions};

use super::folder::SAFETY_CHECKER;
use super::{Opened, row};
use crate::Result;
use crate::safety::{ConceptCheckerFiles, SafetyChecker};

const FEATURE_EXTRACTOR: &str = "feature_extractor";

type Opener = fn(&Files, &LoadOptions) -> Result<Opened<dyn SafetyChecker>>;

/// Safety checkers by the class that the index names.
static SAFETY_CHECKERS: &[(&str, Opener)] =
    &[("StableDiffusionSafetyChecker", |files, options| {
        let files = ConceptCheckerFiles::open(files, SAFETY_CHECKER, FEATURE_EXTRACTOR, options)?;
        Ok(Box::new(files))
    })];

/// The safety checker of the class `class`, which the index of the model folder `files` names;
/// `None` where it is left out. It computes as `options` say, with its own weights of their variant
/// if it has some.
pub(super) fn open(
    files: &Files,
    index: &ConfigFile,
    class: &str,
    options: &LoadOptions,
) -> Result<Option<Opened<dyn SafetyChecker>>> {
    let open = row(SAFETY_CHECKERS, class, index, SAFETY_CHECKER)?;
    let folder = files.folder(SAFETY_CHECKER);
    if folder.names().is_empty() {
        tracing::warn!("the folder {SAFETY_CHECKER} is not there: pictures are not checked");
        return Ok(None);
    }
    let there = folder.variants();
    let variant = options
        .variant
        .clone()
        .filter(|asked| there.contains(asked));
    let options = LoadOptions {
        variant,
        ..options.clone()
    };
    open(files, &options).map(Some)
}
