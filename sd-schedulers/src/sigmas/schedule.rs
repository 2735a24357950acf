use sd_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::beta;
use crate::spacing::linspace;

/// How the noise levels between the largest and the smallest σ are spread.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SigmaSchedule {
    /// The σ of the timesteps that the [`Spacing`](crate::Spacing) chooses.
    #[default]
    Spaced,
    /// Equal steps in `σ^(1/rho)` (equation 5 of Karras et al. 2022, arXiv:2206.00364; rho 7).
    Karras {
        /// How much more densely small σ are visited.
        rho: f64,
    },
    /// Equal steps in ln σ.
    Exponential,
    /// Quantiles of the Beta(α, β) distribution (Lee et al. 2024, arXiv:2407.12173; 0.6 and 0.6).
    Beta {
        /// The distribution's first parameter.
        alpha: f64,
        /// The distribution's second parameter.
        beta: f64,
    },
    /// Equal steps in the log-SNR λ = −ln σ (Lu et al. 2022, arXiv:2206.00927), timesteps rounded.
    LuLambdas,
}

impl SigmaSchedule {
    /// [`Self::Karras`] with ρ = 7.
    pub const KARRAS: Self = Self::Karras { rho: 7.0 };
    /// [`Self::Beta`] with α = β = 0.6.
    pub const BETA: Self = Self::Beta {
        alpha: 0.6,
        beta: 0.6,
    };

    /// The schedule of that name with its usual parameters.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "spaced" => Self::Spaced,
            "karras" => Self::KARRAS,
            "exponential" => Self::Exponential,
            "beta" => Self::BETA,
            "lu_lambdas" => Self::LuLambdas,
            _ => return None,
        })
    }

    /// `steps` falling σ from `max` to `min`; `None` where the timesteps decide.
    pub(crate) fn between(&self, max: f64, min: f64, steps: usize) -> Result<Option<Vec<f64>>> {
        let ramp = linspace(0.0, 1.0, steps).into_iter();
        let sigmas: Vec<f64> = match *self {
            Self::Spaced => return Ok(None),
            Self::Karras { rho } => {
                positive("rho", rho)?;
                let (min, max) = (min.powf(1.0 / rho), max.powf(1.0 / rho));
                ramp.map(|r| (max + r * (min - max)).powf(rho)).collect()
            }
            Self::Exponential | Self::LuLambdas => linspace(max.ln(), min.ln(), steps)
                .into_iter()
                .map(f64::exp)
                .collect(),
            Self::Beta { alpha, beta } => {
                positive("beta schedule's alpha", alpha)?;
                positive("beta schedule's beta", beta)?;
                ramp.map(|r| min + beta::quantile(1.0 - r, alpha, beta) * (max - min))
                    .collect()
            }
        };
        Ok(Some(sigmas))
    }
}

/// Where the last step of a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    /// At σ = 0, no noise left.
    #[default]
    Zero,
    /// At the σ of the first training timestep.
    SigmaMin,
}

/// An error unless `value` is a positive finite number up to 1000.
pub(crate) fn positive(name: &'static str, value: f64) -> Result<()> {
    if value > 0.0 && value <= 1000.0 {
        return Ok(());
    }
    Err(Error::invalid(
        name,
        value,
        "expected a number above 0, at most 1000",
    ))
}
