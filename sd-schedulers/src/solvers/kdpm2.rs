use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, noise_like};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::{Levels, SigmaSchedule, SigmaTable};
use crate::solver::{
    PlannedSampler, Position, Solver, Update, ancestral, check_ancestral, check_noise_scale,
};

/// DPM-Solver-2 in k-diffusion's σ ("DPM2"; Karras et al.'s reading of algorithm 1 of Lu et al.
/// 2022, arXiv:2206.00927): the slope at the geometric mean of both σ, found by an Euler step.
/// Second order, two model calls a step but for the last one to σ = 0. With `eta` above 0 its
/// ancestral form, "DPM2 a".
///
/// Its default settings are those of diffusers' `KDPM2DiscreteScheduler`, and
/// [`Kdpm2::ancestral`] those of `KDPM2AncestralDiscreteScheduler`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kdpm2 {
    /// Noise levels that a run visits. The timesteps of Karras' σ are rounded, as in diffusers.
    pub levels: Levels,
    /// Share of ancestral noise, 0 (none) to 1.
    pub eta: f64,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
}

impl Default for Kdpm2 {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            eta: 0.0,
            s_noise: 1.0,
        }
    }
}

impl Kdpm2 {
    /// DPM2 a.
    pub fn ancestral() -> Self {
        Self {
            eta: 1.0,
            ..Self::default()
        }
    }

    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        // The class has no noise of its own.
        let default = Self::default();
        Ok(Arc::new(Self {
            levels: fields.levels(default.levels)?,
            s_noise: fields.number("s_noise", default.s_noise)?,
            ..default
        }))
    }

    pub(crate) fn ancestral_from_config(fields: &Fields<'_>) -> Built {
        let default = Self::ancestral();
        Ok(Arc::new(Self {
            levels: fields.levels(default.levels)?,
            eta: fields.number("eta", default.eta)?,
            s_noise: fields.number("s_noise", default.s_noise)?,
        }))
    }
}

impl Scheduler for Kdpm2 {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_ancestral(self.eta, self.s_noise)?;
        check_noise_scale(train, "DPM2 a", self.eta)?;
        let mut sigmas = self.levels.resolve(train, steps)?;
        let karras = matches!(self.levels.sigmas, SigmaSchedule::Karras { .. });
        if karras && !self.levels.conventions.fractional_timesteps {
            for t in &mut sigmas.timesteps {
                *t = t.round_ties_even();
            }
        }
        Ok(sigmas.exploding(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let sampler = Kdpm2Sampler {
            settings: self.clone(),
            table: self.levels.table(&plan.schedule),
        };
        PlannedSampler::start(plan, first, sampler)
    }

    fn second_timestep(&self, plan: &Plan, stage: usize) -> Option<f64> {
        let stage = plan.stages.get(stage)?;
        let (down, _) = ancestral(stage.from.sigma, stage.to.sigma, self.eta);
        let middle = (stage.from.sigma * down).sqrt();
        (down > 0.0).then(|| self.levels.table(&plan.schedule).level(middle).t)
    }
}

struct Kdpm2Sampler {
    settings: Kdpm2,
    table: SigmaTable,
}

impl Solver for Kdpm2Sampler {
    const NAME: &'static str = "Kdpm2";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let from = at.stage().from;
        let (down, up) = ancestral(from.sigma, at.stage().to.sigma, self.settings.eta);
        let denoised = model.predict(&x, from)?.denoised;
        let slope = (x.clone() - denoised.clone()) / from.sigma;
        if down == 0.0 {
            let x = x + slope * -from.sigma;
            return Ok(Update { x, denoised });
        }
        let middle = (from.sigma * down).sqrt();
        let level = self.table.level(middle);
        let x_middle = x.clone() + slope * (middle - from.sigma);
        let there = model.predict(&x_middle, level)?.denoised;
        let mut x = x + (x_middle - there) * ((down - from.sigma) / middle);
        if up > 0.0 {
            x = x.clone() + noise_like(&x, noise)? * (up * self.settings.s_noise);
        }
        Ok(Update { x, denoised })
    }
}
