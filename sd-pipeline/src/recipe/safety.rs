//! The safety checker that a model folder ships.

use sd_models::{ConfigFile, Files, LoadOptions};

use super::{Opened, row};
use crate::Result;
use crate::model_path::INDEX;
use crate::safety::{ConceptCheckerFiles, SafetyChecker};

const SAFETY_CHECKER: &str = "safety_checker";
const FEATURE_EXTRACTOR: &str = "feature_extractor";

type Opener = fn(&Files, &LoadOptions) -> Result<Opened<dyn SafetyChecker>>;

/// Safety checkers by the class that the index names.
static SAFETY_CHECKERS: &[(&str, Opener)] =
    &[("StableDiffusionSafetyChecker", |files, options| {
        let files = ConceptCheckerFiles::open(files, SAFETY_CHECKER, FEATURE_EXTRACTOR, options)?;
        Ok(Box::new(files))
    })];

/// The safety checker of the model folder `files`; `None` where its index names none, or where one
/// is named and left out. It computes as `options` say, with its own weights of their variant if it
/// has some.
pub(crate) fn safety_checker(
    files: &Files,
    options: &LoadOptions,
) -> Result<Option<Opened<dyn SafetyChecker>>> {
    let index = ConfigFile::read(files, INDEX)?;
    let expected = "a library's name and a class's name";
    let entry: Option<[Option<String>; 2]> = index.get(SAFETY_CHECKER, expected)?;
    let Some(class) = entry.and_then(|[_, class]| class) else {
        return Ok(None);
    };
    let open = row(SAFETY_CHECKERS, &class, &index, SAFETY_CHECKER)?;
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
