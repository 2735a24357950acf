use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Error, Model, Noise, NoiseSchedule, Plan, PredictionType, Result, Sampler, Scheduler,
    noise_like,
};
use serde::{Deserialize, Serialize};

use crate::levels::{Levels, Rungs};
use crate::sigmas::SigmaSchedule;
use crate::spacing::linspace;
use crate::table::SigmaTable;
use crate::walk::{Advance, Place, Solver, Walk};

/// Euler's method on the probability-flow ODE `dx/dσ = (x − x₀(x, σ))/σ` (Karras et al. 2022,
/// arXiv:2206.00364), one model call a step, first order. With `s_churn` above 0 noise is added
/// before each step (their algorithm 2).
///
/// Its default settings are those of diffusers' `EulerDiscreteScheduler`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Euler {
    /// Which noise levels a run visits.
    pub levels: Levels,
    /// Where a σ between two timesteps comes from.
    pub interpolation: Interpolation,
    /// What the network is told of a noise level.
    pub timestep_type: TimestepType,
    /// Added noise of a whole run, 0 for none; no step adds more than a factor √2 to σ.
    pub s_churn: f64,
    /// Noise is added from this σ on.
    pub s_tmin: f64,
    /// Noise is added up to this σ.
    pub s_tmax: f64,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
}

/// Where the σ of a step comes from (`interpolation_type` in diffusers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Linear in σ between the model's timesteps.
    #[default]
    Linear,
    /// A point more than there are steps, at equal distances in ln σ over the model's whole range;
    /// the run ends at the smallest of them.
    LogLinear,
}

/// What the network is told of a noise level (`timestep_type` in diffusers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepType {
    /// The training timestep.
    #[default]
    Discrete,
    /// `¼ ln σ`, for models trained on continuous noise levels.
    Continuous,
}

impl Default for Euler {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            interpolation: Interpolation::Linear,
            timestep_type: TimestepType::Discrete,
            s_churn: 0.0,
            s_tmin: 0.0,
            s_tmax: f64::INFINITY,
            s_noise: 1.0,
        }
    }
}

impl Scheduler for Euler {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_churn(self.s_churn, self.s_tmin, self.s_tmax, self.s_noise)?;
        let mut rungs = self.levels.rungs(train, steps)?;
        if self.interpolation == Interpolation::LogLinear
            && self.levels.sigmas == SigmaSchedule::Spaced
        {
            let table = SigmaTable::new(train);
            let logs = linspace(table.max().ln(), table.min().ln(), steps + 1);
            rungs.sigmas = logs.into_iter().map(f64::exp).collect();
        }
        if self.timestep_type == TimestepType::Continuous {
            let Rungs { sigmas, timesteps } = &mut rungs;
            for (t, sigma) in timesteps.iter_mut().zip(sigmas) {
                *t = 0.25 * sigma.ln();
            }
        }
        Ok(rungs.exploding(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        Walk::start(plan, first, self.clone())
    }
}

impl Solver for Euler {
    const NAME: &'static str = "Euler";

    fn step(
        &mut self,
        at: &Place<'_>,
        x: Tensor<4>,
        model: &mut Model<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Advance> {
        let stage = at.stage();
        let (sigma, next) = (stage.from.sigma, stage.to.sigma);
        let prediction = model.predict(&x, stage.from)?;
        let gamma = if (self.s_tmin..=self.s_tmax).contains(&sigma) {
            (self.s_churn / at.stages().len() as f64).min(2f64.sqrt() - 1.0)
        } else {
            0.0
        };
        if gamma == 0.0 {
            let denoised = prediction.denoised;
            let derivative = (x.clone() - denoised.clone()) / sigma;
            let x = x + derivative * (next - sigma);
            return Ok(Advance { x, denoised });
        }
        // As in diffusers, the model has been asked about the latent before noise was added; its
        // answer is read at the raised σ, a v-prediction's at the old one.
        let mut raised = stage.from;
        raised.sigma = sigma * (1.0 + gamma);
        let added = (raised.sigma.powi(2) - sigma.powi(2)).sqrt() * self.s_noise;
        let x = x.clone() + noise_like(&x, noise)? * added;
        let kind = model.prediction_type();
        let level = match kind {
            PredictionType::VPrediction => stage.from,
            _ => raised,
        };
        let denoised = kind.denoised(x.clone(), level, prediction.raw);
        let derivative = (x.clone() - denoised.clone()) / raised.sigma;
        let x = x + derivative * (next - raised.sigma);
        Ok(Advance { x, denoised })
    }
}

/// An error when one of the four settings of stochastic churn is out of range.
pub(crate) fn check_churn(churn: f64, min: f64, max: f64, noise: f64) -> Result<()> {
    let settings = [
        ("s_churn", churn, churn.is_finite()),
        ("s_tmin", min, min.is_finite()),
        ("s_tmax", max, true),
        ("s_noise", noise, noise.is_finite()),
    ];
    for (name, value, finite) in settings {
        if !finite || value.is_nan() || value < 0.0 {
            return Err(Error::invalid(
                name,
                value,
                "expected a number of at least 0",
            ));
        }
    }
    Ok(())
}
