//! Guidance in plain values.

use std::any::Any;
use std::sync::Arc;

use sd_core::{
    Combination, Composed, Contrast, Guidance, Linear, PerpendicularNegative, Perturbation,
    Perturbed, Projected, ScaleCurve, Thresholded, ZeroStar,
};
use serde::{Deserialize, Serialize};

/// Record of a guidance of this library's parts: [`Composed`] in plain values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RecordedGuidance {
    /// The guidance scale over the steps.
    pub scale: ScaleCurve,
    /// What became of the outputs under prompt and negative prompt; none of the prompt alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub combination: Option<RecordedCombination>,
    /// Contrasts to perturbed layers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contrasts: Vec<RecordedContrast>,
    /// Share that was scaled to the prompt's own deviation.
    pub rescale: f64,
    /// Part of the run that was guided, in fractions of its steps.
    pub interval: [f64; 2],
}

/// Record of a [`Combination`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RecordedCombination {
    /// Classifier-free guidance.
    Linear,
    /// APG.
    Projected(Projected),
    /// CFG-Zero*.
    ZeroStar(ZeroStar),
    /// Dynamic thresholding.
    Thresholded(Thresholded),
    /// The perpendicular negative prompt.
    PerpendicularNegative(PerpendicularNegative),
}

/// Record of a [`Contrast`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RecordedContrast {
    /// The layers that were perturbed, and how.
    pub perturbed: Perturbed,
    /// The scale.
    pub scale: f64,
    /// Its decrease for each training timestep.
    pub adaptive: f64,
    /// Part of the run in which it counted, in fractions of the steps.
    pub interval: [f64; 2],
}

impl RecordedGuidance {
    /// The record of `guidance`; `None` of one with parts that no record holds: a program's own, a
    /// second network, numbers that JSON has not.
    pub(super) fn of(guidance: &dyn Guidance) -> Option<Self> {
        let composed = (guidance as &dyn Any).downcast_ref::<Composed>()?;
        let combination = composed.combination.as_deref();
        let contrasts = composed.contrasts.iter().map(RecordedContrast::of);
        let record = Self {
            scale: composed.scale,
            combination: match combination {
                Some(combination) => Some(RecordedCombination::of(combination)?),
                None => None,
            },
            contrasts: contrasts.collect::<Option<_>>()?,
            rescale: composed.rescale,
            interval: [composed.interval.start, composed.interval.end],
        };
        let read = serde_json::from_value(serde_json::to_value(&record).ok()?);
        read.ok().filter(|read| *read == record)
    }

    /// The guidance.
    pub(super) fn guidance(&self) -> Arc<dyn Guidance> {
        let [start, end] = self.interval;
        Arc::new(Composed {
            scale: self.scale,
            combination: self
                .combination
                .as_ref()
                .map(RecordedCombination::combination),
            contrasts: self
                .contrasts
                .iter()
                .map(RecordedContrast::contrast)
                .collect(),
            rescale: self.rescale,
            interval: start..end,
        })
    }
}

impl RecordedCombination {
    fn of(combination: &dyn Combination) -> Option<Self> {
        let any = combination as &dyn Any;
        let projected = any.downcast_ref().copied().map(Self::Projected);
        projected
            .or_else(|| any.downcast_ref().map(|Linear| Self::Linear))
            .or_else(|| any.downcast_ref().copied().map(Self::ZeroStar))
            .or_else(|| any.downcast_ref().copied().map(Self::Thresholded))
            .or_else(|| any.downcast_ref().copied().map(Self::PerpendicularNegative))
    }

    fn combination(&self) -> Arc<dyn Combination> {
        match self {
            Self::Linear => Arc::new(Linear),
            Self::Projected(projected) => Arc::new(*projected),
            Self::ZeroStar(zero) => Arc::new(*zero),
            Self::Thresholded(thresholded) => Arc::new(*thresholded),
            Self::PerpendicularNegative(negative) => Arc::new(*negative),
        }
    }
}

impl RecordedContrast {
    fn of(contrast: &Contrast) -> Option<Self> {
        let mut weakened = contrast.weakened.clone();
        let mut perturbed = weakened.take::<Perturbed>()?;
        if let Perturbation::BlurredQueries { sigma } = &mut perturbed.perturbation {
            // All of them are one, and JSON has no infinity.
            *sigma = sigma.min(Perturbation::INFINITE);
        }
        weakened.is_empty().then_some(Self {
            perturbed,
            scale: contrast.scale,
            adaptive: contrast.adaptive,
            interval: [contrast.interval.start, contrast.interval.end],
        })
    }

    fn contrast(&self) -> Contrast {
        let [start, end] = self.interval;
        Contrast {
            adaptive: self.adaptive,
            interval: start..end,
            ..Contrast::perturbed(self.perturbed.clone(), self.scale)
        }
    }
}
