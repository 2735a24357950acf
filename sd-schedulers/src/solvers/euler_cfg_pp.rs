use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, noise_like};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::Levels;
use crate::solver::{
    PlannedSampler, Position, Solver, Update, ancestral, both, check_ancestral, check_scale,
};

/// Euler's method with CFG++ (Chung et al. 2024, arXiv:2406.08070, algorithm 2): the latent goes
/// to the guided x₀, and the noise put back is what the unconditional branch sees, so that guidance
/// never leaves the data's manifold. Without guidance it is Euler's method, with `eta` above 0 its
/// ancestral form. One model call a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EulerCfgPp {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// Share of ancestral noise, 0 (none) to 1.
    pub eta: f64,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
}

impl Default for EulerCfgPp {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            eta: 0.0,
            s_noise: 1.0,
        }
    }
}

impl EulerCfgPp {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            levels: fields.levels_with_ends(default.levels)?,
            eta: fields.number("eta", default.eta)?,
            s_noise: fields.number("s_noise", default.s_noise)?,
        }))
    }
}

impl Scheduler for EulerCfgPp {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_ancestral(self.eta, self.s_noise)?;
        check_scale(train, true, "Euler CFG++", "Euler")?;
        self.levels.exploding(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        PlannedSampler::start(plan, first, self.clone())
    }
}

impl Solver for EulerCfgPp {
    const NAME: &'static str = "EulerCfgPp";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (from, to) = (at.stage().from, at.stage().to);
        let (denoised, uncond) = both(model.predict(&x, from)?);
        let (down, up) = ancestral(from.sigma, to.sigma, self.eta);
        let mut x = denoised.clone() + (x - uncond) * (down / from.sigma);
        if up > 0.0 {
            x = x.clone() + noise_like(&x, noise)? * (up * self.s_noise);
        }
        Ok(Update { x, denoised })
    }
}
