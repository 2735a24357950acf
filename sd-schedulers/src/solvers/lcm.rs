use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Error, Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, Stage, noise_like,
};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::{distilled_timesteps, level_or_end, own_timesteps};
use crate::solver::{PlannedSampler, Position, Solver, Thresholding, Update, bounded, check_betas};

/// Multistep consistency sampling of latent consistency models (Luo et al. 2023,
/// arXiv:2310.04378, algorithm 3): to x₀ in one step, and back to the next level with new noise.
/// One model call a step; 1 to 8 steps.
///
/// Its default settings are those of diffusers' `LCMScheduler`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lcm {
    /// Number of timesteps the model was distilled on; a run takes some of them.
    pub original_steps: usize,
    /// Factor on the timestep in the boundary condition that holds x₀ to the latent at t → 0.
    pub timestep_scaling: f64,
    /// Thresholding of the predicted x₀.
    pub thresholding: Thresholding,
    /// Share of the distilled timesteps that a run is spread over, from the least noisy: how LCM's
    /// own image-to-image pipeline begins in the middle, with all its steps still to do.
    pub strength: f64,
    /// Run of a picture by LCM's own pipeline: all steps lie within the share of the distilled
    /// timesteps that the run's strength says, in place of [`strength`](Self::strength). Without it
    /// the last of the steps are taken, as with other solvers.
    pub spreads_strength: bool,
    /// Timesteps of one's own, falling, in place of the distilled ones; as many as steps.
    pub timesteps: Option<Vec<usize>>,
}

impl Default for Lcm {
    fn default() -> Self {
        Self {
            original_steps: 50,
            timestep_scaling: 10.0,
            thresholding: Thresholding::Off,
            strength: 1.0,
            spreads_strength: false,
            timesteps: None,
        }
    }
}

impl Lcm {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            original_steps: fields.count("original_inference_steps", default.original_steps)?,
            timestep_scaling: fields.number("timestep_scaling", default.timestep_scaling)?,
            thresholding: fields.clip_or_thresholding(default.thresholding)?,
            strength: fields.number("strength", default.strength)?,
            spreads_strength: fields.flag("spreads_strength", default.spreads_strength)?,
            timesteps: fields.own_timesteps()?,
        }))
    }
}

impl Scheduler for Lcm {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_betas(train, "LCM")?;
        self.thresholding.check()?;
        if !self.timestep_scaling.is_finite() {
            let expected = "expected a number";
            return Err(Error::invalid(
                "timestep_scaling",
                self.timestep_scaling,
                expected,
            ));
        }
        let timesteps = match &self.timesteps {
            Some(own) => own_timesteps(own, train.len(), steps)?.collect(),
            None => distilled_timesteps(train.len(), self.original_steps, self.strength, steps)?,
        };
        let stage = |i: usize| Stage {
            from: train.level(timesteps[i]),
            to: match timesteps.get(i + 1) {
                Some(&t) => train.level(t),
                None => level_or_end(train, -1.0, true),
            },
        };
        Ok(Plan {
            schedule: train.clone(),
            init_noise_sigma: 1.0,
            stages: (0..steps).map(stage).collect(),
        })
    }

    fn plan_from_picture(
        &self,
        train: &Arc<NoiseSchedule>,
        steps: usize,
        strength: f64,
    ) -> Result<(Plan, usize)> {
        if self.spreads_strength {
            let spread = Self {
                strength,
                ..self.clone()
            };
            return Ok((spread.plan(train, steps)?, 0));
        }
        let plan = self.plan(train, steps)?;
        let first = plan.first_stage(steps, strength)?;
        Ok((plan, first))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        PlannedSampler::start(plan, first, self.clone())
    }
}

impl Solver for Lcm {
    const NAME: &'static str = "Lcm";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let Stage { from, to } = at.stage();
        let predicted = self.thresholding.apply(model.predict(&x, from)?.denoised);
        let denoised = bounded(predicted, x, from.t * self.timestep_scaling);
        if at.remaining() == 0 {
            return Ok(Update::to_clean(denoised));
        }
        let x = denoised.clone() * to.alpha + noise_like(&denoised, noise)? * to.sigma;
        Ok(Update { x, denoised })
    }
}
