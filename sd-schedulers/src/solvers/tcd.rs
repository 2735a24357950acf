use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, Stage, noise_like};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::{distilled_timesteps, own_timesteps};
use crate::solver::{PlannedSampler, Position, Solver, Update, check_betas, check_share};

/// Strategic stochastic sampling of trajectory consistency distillation (Zheng et al. 2024,
/// arXiv:2402.19159, algorithm 4): along the ODE to timestep `s = (1 − η) t_next`, then back up to
/// `t_next` with new noise. One model call a step.
///
/// Its default settings are those of diffusers' `TCDScheduler`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tcd {
    /// Number of timesteps the model was distilled on; a run takes some of them.
    pub original_steps: usize,
    /// Share of noise, called γ in the paper: 0 (deterministic) to 1.
    pub eta: f64,
    /// Share of the distilled timesteps that a run is spread over, from the least noisy.
    pub strength: f64,
    /// Timesteps of one's own, falling, in place of the distilled ones; as many as steps.
    pub timesteps: Option<Vec<usize>>,
}

impl Default for Tcd {
    fn default() -> Self {
        Self {
            original_steps: 50,
            eta: 0.3,
            strength: 1.0,
            timesteps: None,
        }
    }
}

impl Tcd {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            original_steps: fields.count("original_inference_steps", default.original_steps)?,
            eta: fields.number("eta", default.eta)?,
            strength: fields.number("strength", default.strength)?,
            timesteps: fields.own_timesteps()?,
        }))
    }
}

impl Scheduler for Tcd {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_betas(train, "TCD")?;
        check_share("eta", self.eta)?;
        let timesteps = match &self.timesteps {
            Some(own) => own_timesteps(own, train.len(), steps)?.collect(),
            None => distilled_timesteps(train.len(), self.original_steps, self.strength, steps)?,
        };
        let stage = |i: usize| Stage {
            from: train.level(timesteps[i]),
            to: train.level(timesteps.get(i + 1).copied().unwrap_or(0)),
        };
        Ok(Plan {
            schedule: train.clone(),
            init_noise_sigma: 1.0,
            stages: (0..steps).map(stage).collect(),
        })
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let sampler = TcdSampler {
            eta: self.eta,
            train: plan.schedule.clone(),
        };
        PlannedSampler::start(plan, first, sampler)
    }
}

struct TcdSampler {
    eta: f64,
    train: Arc<NoiseSchedule>,
}

impl Solver for TcdSampler {
    const NAME: &'static str = "Tcd";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let Stage { from, to } = at.stage();
        // In f32, as torch multiplies a timestep by a number.
        let s = self
            .train
            .level(((1.0 - self.eta) as f32 * to.t as f32) as usize);
        let prediction = model.predict(&x, from)?;
        let x = prediction.denoised.clone() * s.alpha + prediction.noise * s.sigma;
        let denoised = prediction.denoised;
        if self.eta == 0.0 || at.remaining() == 0 {
            return Ok(Update { x, denoised });
        }
        let kept = to.alpha / s.alpha;
        let added = (1.0 - kept * kept).max(0.0).sqrt();
        let x = x.clone() * kept + noise_like(&x, noise)? * added;
        Ok(Update { x, denoised })
    }
}
