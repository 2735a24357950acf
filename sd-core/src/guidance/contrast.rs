use std::ops::Range;

use super::combination::{finite, not_negative};
use super::interval;
use crate::{Error, Extension, Extensions, Level, Result};

/// A branch of the prompt under a weakened network, from whose output guidance leads away: it adds
/// `scale·(c − weak)` (Karras et al. 2024, arXiv:2406.02507, say why that is of use). One branch more.
#[derive(Debug, Clone)]
pub struct Contrast {
    /// What weakens the network in this branch: the extensions that the prompt's conditioning gets.
    pub weakened: Extensions,
    /// The scale; 0 evaluates nothing.
    pub scale: f64,
    /// Decrease of the scale for each training timestep from the noise on, down to 0, so that the
    /// branch is not evaluated any more: `scale − adaptive·(1000 − t)`. 0 is none.
    pub adaptive: f64,
    /// Part of the run in which it counts, in fractions of the steps.
    pub interval: Range<f64>,
}

impl Contrast {
    /// A contrast that counts all along.
    pub fn new(weakened: Extensions, scale: f64) -> Self {
        Self {
            weakened,
            scale,
            adaptive: 0.0,
            interval: 0.0..1.0,
        }
    }

    /// A contrast to a network of which some layers are perturbed.
    pub fn perturbed(perturbed: Perturbed, scale: f64) -> Self {
        let mut weakened = Extensions::new();
        weakened.insert(perturbed);
        Self::new(weakened, scale)
    }

    /// Autoguidance (Karras et al. 2024, arXiv:2406.02507): a contrast to the weaker one of a
    /// [`DenoiserPair`](crate::DenoiserPair), such as one trained for less time. `scale` is the
    /// paper's `w`: `D₀ + w·(D₁ − D₀)`.
    pub fn second_network(scale: f64) -> Self {
        let mut weakened = Extensions::new();
        weakened.insert(SecondNetwork);
        Self::new(weakened, scale - 1.0)
    }

    /// The scale at `level` in a step.
    pub(super) fn scale_at(&self, level: Level, step: usize, steps: usize) -> f64 {
        if !interval::contains(&self.interval, step, steps) {
            return 0.0;
        }
        if self.adaptive == 0.0 || self.scale <= 0.0 {
            return self.scale;
        }
        // diffusers' number, whatever the model's schedule.
        (self.scale - self.adaptive * (1000.0 - level.t)).max(0.0)
    }

    pub(super) fn check(&self) -> Result<()> {
        finite("the contrast's scale", self.scale)?;
        not_negative("adaptive", self.adaptive)?;
        interval::check("the contrast's interval", &self.interval)
    }
}

/// The [`Extension`] of a branch whose network is perturbed in some of its layers.
///
/// Who reads it refuses a path that selects nothing.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Perturbed {
    /// The layers, by paths as checkpoints have them: `mid_block`, `up_blocks.1`,
    /// `down_blocks.2.attentions.0.transformer_blocks.0`. A path selects all transformer blocks under
    /// it.
    pub layers: Vec<String>,
    /// What happens to them.
    pub perturbation: Perturbation,
}

impl Extension for Perturbed {
    const NAME: &'static str = "a perturbation of layers";
}

/// What becomes of a perturbed layer, a transformer block.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Perturbation {
    /// Self-attention in which each token sees itself alone: the attention map is the identity
    /// (perturbed-attention guidance, Ahn et al. 2024, arXiv:2403.17377).
    IdentityAttention,
    /// Self-attention whose queries are blurred over the picture by a Gaussian of deviation
    /// `sigma`, in tokens, above 0; from 9999 on they are their mean (smoothed energy guidance, Hong
    /// 2024, arXiv:2408.00760). The kernel ends at `⌈6·sigma⌉` tokens, as in the paper's program, and
    /// at the picture's side.
    BlurredQueries {
        /// The deviation.
        sigma: f64,
    },
    /// A block that is left out (skip-layer guidance, Hyung et al. 2024, arXiv:2411.18664).
    Skipped,
}

impl Perturbation {
    /// Deviations from here on blur a picture to its mean.
    pub const INFINITE: f64 = 9999.0;

    /// A check of its settings.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a deviation of 0 or less, or NaN.
    pub fn check(self) -> Result<()> {
        match self {
            Self::BlurredQueries { sigma } if sigma.is_nan() || sigma <= 0.0 => {
                let expected = "expected a number above 0";
                Err(Error::invalid("the blur's sigma", sigma, expected))
            }
            _ => Ok(()),
        }
    }
}

/// The [`Extension`] of a branch that the second network of a
/// [`DenoiserPair`](crate::DenoiserPair) evaluates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SecondNetwork;

impl Extension for SecondNetwork {
    const NAME: &'static str = "a second network's branch";
}
