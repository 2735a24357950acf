mod beta;
mod gits;
mod tables;

use sd_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{SigmaTable, linspace};
pub use tables::AlignedModel;

/// Spread of the noise levels between the largest and the smallest σ.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SigmaSchedule {
    /// The σ of the timesteps that the [`Spacing`](crate::Spacing) chooses.
    #[default]
    Spaced,
    /// Equal steps in `σ^(1/rho)` (equation 5 of Karras et al. 2022, arXiv:2206.00364; rho 7).
    Karras {
        /// Degree to which small σ are visited more densely.
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
    /// Equal steps in `(ln σ)^(1/rho)` (k-diffusion's polyexponential; rho 1 is exponential).
    Polyexponential {
        /// Degree to which small σ are visited more densely.
        rho: f64,
    },
    /// Equal steps in arctan σ, which minimise a bound of the KL divergence (theorem 3.1 of Sabour et
    /// al. 2024, arXiv:2404.14507).
    KlOptimal,
    /// Tables optimised for a model and ten steps (Sabour et al. 2024, arXiv:2404.14507).
    AlignYourSteps(AlignedModel),
    /// Half of the steps at the very beginning (ComfyUI's `linear_quadratic`).
    LinearQuadratic,
    /// Equal steps in the timestep from the last to the first, σ interpolated in ln σ (ComfyUI's
    /// and k-diffusion's `normal`).
    Normal,
    /// Quantiles of the Beta(α, β) distribution of the timestep, rounded (ComfyUI's and
    /// stable-diffusion.cpp's `beta`; 0.6 and 0.6). Equal ones count once, so that a run of many
    /// steps may have fewer.
    BetaTimesteps {
        /// The distribution's first parameter.
        alpha: f64,
        /// The distribution's second parameter.
        beta: f64,
    },
    /// As [`Self::KlOptimal`] with a point more, which is the end of the run (A1111's `KL Optimal`).
    KlOptimalToMin,
    /// As [`Self::AlignYourSteps`], stretched over the steps before the last, which ends at 0
    /// (A1111's `Align Your Steps`).
    AlignYourStepsStretched(AlignedModel),
    /// As [`Self::Normal`] with a point more, which is the end of the run, and interpolated in ln α
    /// (UniPC's own `time_uniform`, A1111's `UniPC`).
    TimeUniform,
    /// Timesteps on the curve `x²(3 − 2x)` (stable-diffusion.cpp's `smoothstep`).
    SmoothStep,
    /// Two arcs of the arctangent that meet in the middle of the σ (RES4LYF's and
    /// stable-diffusion.cpp's `bong_tangent`).
    BongTangent,
    /// The timesteps that latent consistency models are distilled on, 50 of them (stable-
    /// diffusion.cpp's `lcm`).
    LcmTimesteps,
    /// Timesteps chosen for Stable Diffusion by the geometry of its trajectories (Chen et al. 2024,
    /// arXiv:2405.11326).
    Gits,
    /// As [`Self::Normal`] with a point more, the first timestep left out (Stability's own code;
    /// ComfyUI's `sgm_uniform`).
    SgmUniform,
    /// Every `N / steps`-th training σ from the last (ComfyUI's `simple`).
    Simple,
    /// Every `N / steps`-th training σ from the second (ComfyUI's `ddim_uniform`); some step
    /// counts give a level more.
    DdimUniform,
    /// These σ, falling: one for each step, or one more, which is where the run ends. Along a flow
    /// they are shifted.
    Sigmas(Vec<f64>),
    /// The σ of these timesteps, falling, as many as steps.
    Timesteps(Vec<f64>),
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
            "polyexponential" => Self::Polyexponential { rho: 1.0 },
            "kl_optimal" => Self::KlOptimal,
            "align_your_steps" => Self::AlignYourSteps(AlignedModel::Sd1),
            "align_your_steps_sdxl" => Self::AlignYourSteps(AlignedModel::Sdxl),
            "linear_quadratic" => Self::LinearQuadratic,
            "normal" => Self::Normal,
            "sgm_uniform" => Self::SgmUniform,
            "simple" => Self::Simple,
            "ddim_uniform" => Self::DdimUniform,
            "beta_timesteps" => Self::BetaTimesteps {
                alpha: 0.6,
                beta: 0.6,
            },
            "kl_optimal_to_min" => Self::KlOptimalToMin,
            "align_your_steps_stretched" => Self::AlignYourStepsStretched(AlignedModel::Sd1),
            "align_your_steps_sdxl_stretched" => Self::AlignYourStepsStretched(AlignedModel::Sdxl),
            "time_uniform" => Self::TimeUniform,
            "smoothstep" => Self::SmoothStep,
            "bong_tangent" => Self::BongTangent,
            "lcm_timesteps" => Self::LcmTimesteps,
            "gits" => Self::Gits,
            _ => return None,
        })
    }

    /// The σ of a schedule that has nothing to do with a [`Spacing`](crate::Spacing), not even its
    /// ends; `None` for those that diffusers knows.
    pub(crate) fn on(&self, table: &SigmaTable, steps: usize) -> Result<Option<Vec<f64>>> {
        let last = (table.len() - 1) as f64;
        let at = |points: Vec<f64>| points.iter().map(|&t| table.log_sigma(t)).collect();
        let ramp = || linspace(0.0, 1.0, steps).into_iter();
        let (min, max) = (table.min(), table.max());
        let sigmas: Vec<f64> = match self {
            Self::Polyexponential { rho } => {
                positive("rho", *rho)?;
                let (low, high) = (min.ln(), max.ln());
                ramp()
                    .map(|r| (low + (1.0 - r).powf(*rho) * (high - low)).exp())
                    .collect()
            }
            Self::KlOptimal => {
                let (low, high) = (min.atan(), max.atan());
                ramp().map(|r| (r * low + (1.0 - r) * high).tan()).collect()
            }
            Self::KlOptimalToMin => {
                let points = linspace(max.atan(), min.atan(), steps + 1);
                points[..steps].iter().map(|angle| angle.tan()).collect()
            }
            Self::AlignYourSteps(model) => {
                tables::align_your_steps(*model, steps + 1)[..steps].to_vec()
            }
            Self::AlignYourStepsStretched(model) => tables::align_your_steps(*model, steps),
            Self::BetaTimesteps { alpha, beta } => {
                positive("beta schedule's alpha", *alpha)?;
                positive("beta schedule's beta", *beta)?;
                let quantile = |i: usize| {
                    let rest = 1.0 - i as f64 / steps as f64;
                    (beta::quantile(rest, *alpha, *beta) * last).round_ties_even()
                };
                let mut timesteps: Vec<f64> = (0..steps).map(quantile).collect();
                timesteps.dedup();
                let sigmas = timesteps.iter().map(|&t| table.sigmas()[t as usize]);
                sigmas.collect()
            }
            Self::TimeUniform => tables::time_uniform(table, steps),
            Self::SmoothStep => {
                let timestep = |i: usize| {
                    let x = 1.0 - i as f64 / steps as f64;
                    (x * x * (3.0 - 2.0 * x) * last).round()
                };
                let mut timesteps: Vec<f64> = (0..steps).map(timestep).collect();
                timesteps.dedup();
                let sigmas = timesteps.iter().map(|&t| table.sigmas()[t as usize]);
                sigmas.collect()
            }
            Self::BongTangent => tables::bong_tangent(max, min, steps),
            Self::LcmTimesteps => tables::lcm_timesteps(table, steps),
            Self::Gits => gits::gits(table, steps),
            Self::LinearQuadratic => tables::linear_quadratic(max, steps),
            Self::Normal => at(linspace(last, 0.0, steps)),
            Self::SgmUniform => at(linspace(last, 0.0, steps + 1)[..steps].to_vec()),
            Self::Simple => tables::simple(table, steps),
            Self::DdimUniform => tables::ddim_uniform(table, steps),
            Self::Sigmas(sigmas) => {
                let ends = usize::from(sigmas.len() == steps + 1);
                let sigmas = check_count("sigmas", sigmas, steps + ends)?;
                sigmas[..steps].iter().map(|&s| table.shifted(s)).collect()
            }
            Self::Timesteps(timesteps) => {
                let timesteps = check_count("timesteps", timesteps, steps)?;
                timesteps.iter().map(|&t| table.sigma(t)).collect()
            }
            _ => return Ok(None),
        };
        Ok(Some(sigmas))
    }

    /// True of a list of the user's own.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self, Self::Sigmas(_) | Self::Timesteps(_))
    }

    /// The end of a run of `count` levels, for a schedule that says so itself.
    pub(crate) fn end(&self, table: &SigmaTable, count: usize) -> Option<f64> {
        match self {
            Self::Sigmas(sigmas) if sigmas.len() == count + 1 => Some(table.shifted(sigmas[count])),
            Self::KlOptimalToMin | Self::TimeUniform => Some(table.min()),
            _ => None,
        }
    }

    /// `steps` falling σ from `max` to `min`; `None` where the timesteps decide.
    pub(crate) fn between(&self, max: f64, min: f64, steps: usize) -> Result<Option<Vec<f64>>> {
        let ramp = linspace(0.0, 1.0, steps).into_iter();
        let sigmas: Vec<f64> = match *self {
            Self::Exponential | Self::LuLambdas => linspace(max.ln(), min.ln(), steps)
                .into_iter()
                .map(f64::exp)
                .collect(),
            Self::Karras { rho } => {
                positive("rho", rho)?;
                let (min, max) = (min.powf(1.0 / rho), max.powf(1.0 / rho));
                ramp.map(|r| (max + r * (min - max)).powf(rho)).collect()
            }
            Self::Beta { alpha, beta } => {
                positive("beta schedule's alpha", alpha)?;
                positive("beta schedule's beta", beta)?;
                ramp.map(|r| min + beta::quantile(1.0 - r, alpha, beta) * (max - min))
                    .collect()
            }
            _ => return Ok(None),
        };
        Ok(Some(sigmas))
    }
}

fn check_count<'a>(name: &'static str, list: &'a [f64], steps: usize) -> Result<&'a [f64]> {
    if list.len() == steps && list.iter().all(|value| value.is_finite() && *value >= 0.0) {
        return Ok(list);
    }
    let expected = format!("expected one of at least 0 for each of {steps} steps");
    Err(Error::invalid(
        name,
        format!("a list of {}", list.len()),
        expected,
    ))
}

/// End of the last step of a run.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    /// At σ = 0, no noise left.
    #[default]
    Zero,
    /// At the σ of the first training timestep.
    SigmaMin,
    /// At this σ.
    At(f64),
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
