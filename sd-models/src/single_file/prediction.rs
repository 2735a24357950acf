//! Meaning of a single file's U-Net's output.

use super::{Family, Opened, SingleFileOptions};
use crate::PredictionType;

impl PredictionType {
    /// diffusers' word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::VPrediction => "v_prediction",
            Self::Sample => "sample",
        }
    }
}

/// What the caller says, or the file; `None` where that is the family's to say. A family that the
/// caller names counts for more than the file's name.
pub(super) fn said(opened: &Opened, options: &SingleFileOptions) -> Option<PredictionType> {
    let found = &opened.inspection;
    let is_told = found.prediction_is_marked || options.family.is_none();
    options.prediction.or(found.prediction.filter(|_| is_told))
}

/// Warns where nothing says what the output means, which makes two models of one family's shapes.
pub(super) fn warn_if_ambiguous(opened: &Opened, family: &Family, options: &SingleFileOptions) {
    let is_open = opened.inspection.prediction.is_none() && options.family.is_none();
    if !is_open || options.prediction.is_some() || options.config.is_some() {
        return;
    }
    let words = opened.inspection.ambiguous.iter();
    for words in words.filter(|words| words.starts_with("prediction")) {
        let scheduler = family.settings("scheduler");
        let taken = scheduler.get("prediction_type").and_then(|p| p.as_str());
        tracing::warn!(
            "{}: {words}; taken is {}, as diffusers does: say the prediction type, or the family, if \
             the pictures are noise",
            opened.path.display(),
            taken.unwrap_or("epsilon"),
        );
    }
}
