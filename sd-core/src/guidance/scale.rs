use crate::{Error, Result};

/// A guidance scale over the steps of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum ScaleCurve {
    /// The same in every step.
    Constant(f64),
    /// From the first value in the first step to the second in the last, in a straight line (Wang et
    /// al. 2024, arXiv:2404.13040, find that a scale that rises does better than a constant one).
    Linear(f64, f64),
    /// The same by half a cosine: slow at both ends.
    Cosine(f64, f64),
}

impl ScaleCurve {
    /// The scale in the step number `step`, from 0, of `steps`.
    pub fn at(self, step: usize, steps: usize) -> f64 {
        // A run of one step is at its beginning.
        let share = step as f64 / steps.saturating_sub(1).max(1) as f64;
        let between = |a: f64, b: f64, share: f64| a + (b - a) * share;
        match self {
            Self::Constant(scale) => scale,
            Self::Linear(a, b) => between(a, b, share),
            Self::Cosine(a, b) => between(a, b, (1.0 - (std::f64::consts::PI * share).cos()) / 2.0),
        }
    }

    pub(super) fn check(self) -> Result<()> {
        let (Self::Constant(a) | Self::Linear(a, _) | Self::Cosine(a, _)) = self;
        let (Self::Constant(b) | Self::Linear(_, b) | Self::Cosine(_, b)) = self;
        match [a, b].into_iter().find(|scale| !scale.is_finite()) {
            Some(scale) => Err(Error::invalid(
                "guidance scale",
                scale,
                "expected a finite number",
            )),
            None => Ok(()),
        }
    }
}

impl From<f64> for ScaleCurve {
    fn from(scale: f64) -> Self {
        Self::Constant(scale)
    }
}
