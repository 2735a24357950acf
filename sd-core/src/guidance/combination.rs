//! Ways to make one output of those under the prompt and under another text.

use std::any::Any;
use std::fmt::Debug;

use burn::tensor::Tensor;

use super::samples::{divisor, dot, norm};
use super::{At, Text, exactly};
use crate::{Error, Result, SavedState};

/// A way to make one output of those under the prompt and under another text: what
/// [`Composed`](super::Composed) does first.
///
/// It holds settings only; what a run remembers is in the state it is lent.
pub trait Combination: Any + Debug + Send + Sync {
    /// The texts whose outputs it takes, a branch each. The prompt is among them, and the first is
    /// the unconditional one.
    fn texts(&self) -> Vec<Text> {
        vec![Text::Negative, Text::Prompt]
    }

    /// A check of its settings.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) naming what is out of range.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// `true` when it uses the run's memory. The default is `false`.
    fn remembers(&self) -> bool {
        false
    }

    /// One output `[n, c, h, w]` of the `outputs` of its [`texts`](Self::texts), in their order,
    /// at the guidance scale `scale`. `memory` is the run's, empty at its beginning.
    ///
    /// # Errors
    /// [`Error::SavedState`](crate::Error::SavedState) when the memory is of another run.
    fn combine(
        &self,
        at: &At<'_>,
        scale: f64,
        outputs: Vec<Tensor<4>>,
        memory: &mut SavedState,
    ) -> Result<Tensor<4>>;
}

/// Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): `u + w·(c − u)`. Two branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Linear;

impl Combination for Linear {
    fn combine(
        &self,
        _: &At<'_>,
        scale: f64,
        outputs: Vec<Tensor<4>>,
        _: &mut SavedState,
    ) -> Result<Tensor<4>> {
        let [uncond, cond] = exactly(outputs)?;
        Ok(uncond.clone() + (cond - uncond) * scale)
    }
}

/// Adaptive projected guidance (Sadat et al. 2024, arXiv:2410.02416): of the difference `c − u` the
/// part along the prompt's output, which saturates colours, counts less. Two branches.
///
/// On the network's raw output, with norms and products over a whole sample, as diffusers'
/// `AdaptiveProjectedGuidance` has it; the paper has it on x₀.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Projected {
    /// Share of the part along the prompt's output, η: 1 is plain guidance, 0 the paper's.
    pub eta: f64,
    /// Share of the last difference that is added to this one, β; 0 is none, and the paper has it
    /// from −0.75 to −0.25, so that guidance does not push twice in one direction.
    pub momentum: f64,
    /// The longest that the difference may be, r; 0 is no limit.
    pub rescale: f64,
    /// `true` to go from the prompt's output, `c + (w − 1)·d`, as in the paper; `false` to go from
    /// the unconditional one, `u + w·d`, as diffusers does where it is not told otherwise.
    pub from_prompt: bool,
}

impl Default for Projected {
    /// diffusers'.
    fn default() -> Self {
        Self {
            eta: 1.0,
            momentum: 0.0,
            rescale: 15.0,
            from_prompt: false,
        }
    }
}

/// The sum of differences in a run's memory.
const AVERAGE: &str = "average";

impl Combination for Projected {
    fn remembers(&self) -> bool {
        self.momentum != 0.0
    }

    fn check(&self) -> Result<()> {
        finite("eta", self.eta)?;
        finite("momentum", self.momentum)?;
        not_negative("rescale", self.rescale)
    }

    fn combine(
        &self,
        _: &At<'_>,
        scale: f64,
        outputs: Vec<Tensor<4>>,
        memory: &mut SavedState,
    ) -> Result<Tensor<4>> {
        let [uncond, cond] = exactly(outputs)?;
        let mut difference = cond.clone() - uncond.clone();
        if self.remembers() {
            if let Some(average) = memory.tensor(AVERAGE) {
                if average.dims() != difference.dims() {
                    let [found, expected] = [average.dims(), difference.dims()];
                    let reason = format!("'{AVERAGE}' is {found:?}, the latent {expected:?}");
                    return Err(Error::SavedState(reason));
                }
                difference = difference + average * self.momentum;
            }
            *memory = SavedState::default().with_tensor(AVERAGE, difference.clone());
        }
        if self.rescale > 0.0 {
            let factor = divisor(norm(&difference)).recip() * self.rescale;
            difference = difference * factor.clamp_max(1.0);
        }
        let along = dot(&difference, &cond) / divisor(dot(&cond, &cond));
        let along = cond.clone() * along;
        let difference = difference - along * (1.0 - self.eta);
        Ok(match self.from_prompt {
            true => cond + difference * (scale - 1.0),
            false => uncond + difference * scale,
        })
    }
}

/// CFG-Zero* (Fan et al. 2025, arXiv:2503.18886): the unconditional output is first scaled to come
/// as near to the prompt's as it can, `u·⟨c, u⟩/‖u‖²`; and the first steps are left out: their
/// output is zero. Two branches.
///
/// It was found for flows, whose output of zero leaves the latent as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ZeroStar {
    /// Number of steps at the beginning whose output is zero; 1 in diffusers.
    pub zero_steps: usize,
}

impl Default for ZeroStar {
    fn default() -> Self {
        Self { zero_steps: 1 }
    }
}

impl Combination for ZeroStar {
    fn combine(
        &self,
        at: &At<'_>,
        scale: f64,
        outputs: Vec<Tensor<4>>,
        _: &mut SavedState,
    ) -> Result<Tensor<4>> {
        let [uncond, cond] = exactly(outputs)?;
        if at.step < self.zero_steps {
            return Ok(cond.zeros_like());
        }
        // diffusers' ε, which matters to an output of nothing only.
        let nearest = dot(&cond, &uncond) / (dot(&uncond, &uncond) + 1e-8);
        let uncond = uncond * nearest;
        Ok(uncond.clone() + (cond - uncond) * scale)
    }
}

/// Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section 2.3, for latents as the
/// extension sd-dynamic-thresholding has it): each channel of the x₀ that guidance implies is
/// clipped, and its deviation from its mean is scaled to what a lower guidance scale would give. Two
/// branches.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Thresholded {
    /// The guidance scale whose range of values is kept.
    pub mimic: f64,
    /// Share of a channel's values that are not clipped, from 0 to 1; 1 clips none.
    pub percentile: f64,
}

impl Default for Thresholded {
    fn default() -> Self {
        Self {
            mimic: 7.0,
            percentile: 1.0,
        }
    }
}

impl Combination for Thresholded {
    fn check(&self) -> Result<()> {
        finite("mimic", self.mimic)?;
        share("percentile", self.percentile)
    }

    fn combine(
        &self,
        at: &At<'_>,
        scale: f64,
        outputs: Vec<Tensor<4>>,
        _: &mut SavedState,
    ) -> Result<Tensor<4>> {
        let [uncond, cond] = exactly(outputs)?;
        let [n, c, h, w] = uncond.dims();
        let (uncond, cond) = (at.denoised(uncond), at.denoised(cond));
        let difference = cond - uncond.clone();
        let channels = |scale: f64| -> Tensor<3> {
            (uncond.clone() + difference.clone() * scale).reshape([n, c, h * w])
        };
        let guided = channels(scale);
        let mean = guided.clone().mean_dim(2);
        let centred = guided - mean.clone();
        let mimic = channels(self.mimic);
        let mimic = (mimic.clone() - mimic.mean_dim(2)).abs().max_dim(2);
        let most = quantile(centred.clone().abs(), self.percentile);
        let most = most.max_pair(mimic.clone());
        let shape = centred.dims();
        let limit = most.clone().expand(shape);
        let clipped = centred.max_pair(limit.clone().neg()).min_pair(limit);
        // A channel of one value has nothing to scale.
        let factor = mimic / most.clamp_min(f64::from(f32::MIN_POSITIVE));
        Ok(at.output((clipped * factor + mean).reshape([n, c, h, w])))
    }
}

/// Perpendicular negative prompt (Armandpour et al. 2023, arXiv:2304.04968): of the negative
/// prompt's direction only the part counts that is perpendicular to the prompt's:
/// `u + w·(p − weight·n⊥)` with `p = c − u` and `n` likewise, `u` under the empty prompt. Three
/// branches.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PerpendicularNegative {
    /// Weight of the negative prompt.
    pub weight: f64,
}

impl Default for PerpendicularNegative {
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

impl Combination for PerpendicularNegative {
    fn texts(&self) -> Vec<Text> {
        vec![Text::Empty, Text::Prompt, Text::Negative]
    }

    fn check(&self) -> Result<()> {
        finite("weight", self.weight)
    }

    fn combine(
        &self,
        _: &At<'_>,
        scale: f64,
        outputs: Vec<Tensor<4>>,
        _: &mut SavedState,
    ) -> Result<Tensor<4>> {
        let [uncond, cond, negative] = exactly(outputs)?;
        let positive = cond - uncond.clone();
        let negative = negative - uncond.clone();
        let along = dot(&negative, &positive) / divisor(dot(&positive, &positive));
        let perpendicular = negative - positive.clone() * along;
        Ok(uncond + (positive - perpendicular * self.weight) * scale)
    }
}

/// The `share`-quantile along the last side, linear between two values, as torch has it.
fn quantile(x: Tensor<3>, share: f64) -> Tensor<3> {
    let last = x.dims()[2] - 1;
    if share >= 1.0 {
        return x.max_dim(2);
    }
    let place = share * last as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let sorted = x.sort(2);
    let low = sorted.clone().narrow(2, below, 1);
    let high = sorted.narrow(2, (below + 1).min(last), 1);
    low.clone() + (high - low) * part
}

pub(super) fn finite(name: &'static str, value: f64) -> Result<()> {
    match value.is_finite() {
        true => Ok(()),
        false => Err(Error::invalid(name, value, "expected a finite number")),
    }
}

pub(super) fn share(name: &'static str, value: f64) -> Result<()> {
    match (0.0..=1.0).contains(&value) {
        true => Ok(()),
        false => Err(Error::invalid(name, value, "expected 0 to 1")),
    }
}

pub(super) fn not_negative(name: &'static str, value: f64) -> Result<()> {
    match value.is_finite() && value >= 0.0 {
        true => Ok(()),
        false => Err(Error::invalid(
            name,
            value,
            "expected a finite number, 0 or more",
        )),
    }
}
