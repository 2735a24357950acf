use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, noise_like};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::Levels;
use crate::solver::{
    PlannedSampler, Position, Solver, Update, ancestral, check_ancestral, check_noise_scale,
};

/// Ancestral sampling with Euler steps (k-diffusion's `sample_euler_ancestral`): each step goes
/// further down than it has to, to `σ_down`, and adds the noise `σ_up` that brings it back,
/// `σ_down² + σ_up² = σ_next²`. One model call a step.
///
/// Its default settings are those of diffusers' `EulerAncestralDiscreteScheduler`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EulerAncestral {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// Share of the ancestral noise, 0 (none: plain Euler) to 1.
    pub eta: f64,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
}

impl Default for EulerAncestral {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            eta: 1.0,
            s_noise: 1.0,
        }
    }
}

impl EulerAncestral {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            levels: fields.spaced_levels(default.levels)?,
            eta: fields.number("eta", default.eta)?,
            s_noise: fields.number("s_noise", default.s_noise)?,
        }))
    }
}

impl Scheduler for EulerAncestral {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_ancestral(self.eta, self.s_noise)?;
        check_noise_scale(train, "Euler a", self.eta)?;
        self.levels.exploding(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        PlannedSampler::start(plan, first, self.clone())
    }
}

impl Solver for EulerAncestral {
    const NAME: &'static str = "EulerAncestral";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let stage = at.stage();
        let sigma = stage.from.sigma;
        let denoised = model.predict(&x, stage.from)?.denoised;
        let (down, up) = ancestral(sigma, stage.to.sigma, self.eta);
        let derivative = (x.clone() - denoised.clone()) / sigma;
        let mut x = x + derivative * (down - sigma);
        if up > 0.0 {
            x = x.clone() + noise_like(&x, noise)? * (up * self.s_noise);
        }
        Ok(Update { x, denoised })
    }
}
