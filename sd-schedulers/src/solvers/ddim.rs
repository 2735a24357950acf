use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Level, Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, Stage, noise_like,
};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::{Spacing, between_timesteps, level_or_end};
use crate::solver::{
    PlannedSampler, Position, Solver, Thresholding, Update, check_betas, check_share,
};

/// Denoising diffusion implicit models (Song, Meng & Ermon 2020, arXiv:2010.02502), equation 12:
/// `x_prev = √ᾱ_prev x₀ + √(1 − ᾱ_prev − s²) ε + s z` with `s = η σ_t`. One model call a step.
///
/// Its default settings are those of diffusers' `DDIMScheduler`, made for models of pixels: a
/// latent model wants `thresholding: Thresholding::Off`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ddim {
    /// Spread of the timesteps.
    pub spacing: Spacing,
    /// Offset of every timestep of [`Spacing::Leading`]; 1 for Stable Diffusion.
    pub steps_offset: usize,
    /// End of the last step without noise (`ᾱ = 1`), not at the level of timestep 0.
    pub set_alpha_to_one: bool,
    /// Thresholding of the predicted x₀.
    pub thresholding: Thresholding,
    /// Share of DDPM's noise in each step, 0 (deterministic) to 1.
    pub eta: f64,
    /// Use of the clipped x₀'s ε in place of the network's.
    pub use_clipped_model_output: bool,
    /// End of the run at the last of its timesteps, 1: the steps are those between them, one fewer
    /// than asked for (A1111). The spacing counts as leading with an offset of 1.
    pub ends_at_last_timestep: bool,
    /// CFG++: the noise put back is the unconditional branch's (A1111's DDIM CFG++).
    pub cfg_pp: bool,
}

impl Default for Ddim {
    fn default() -> Self {
        Self {
            spacing: Spacing::Leading,
            steps_offset: 0,
            set_alpha_to_one: true,
            thresholding: Thresholding::Range(1.0),
            eta: 0.0,
            use_clipped_model_output: false,
            ends_at_last_timestep: false,
            cfg_pp: false,
        }
    }
}

impl Ddim {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            spacing: fields.spacing(default.spacing)?,
            steps_offset: fields.count("steps_offset", default.steps_offset)?,
            set_alpha_to_one: fields.flag("set_alpha_to_one", default.set_alpha_to_one)?,
            thresholding: fields.clip_or_thresholding(default.thresholding)?,
            eta: fields.number("eta", default.eta)?,
            use_clipped_model_output: fields
                .flag("use_clipped_model_output", default.use_clipped_model_output)?,
            ends_at_last_timestep: fields
                .flag("ends_at_last_timestep", default.ends_at_last_timestep)?,
            cfg_pp: fields.flag("cfg_pp", default.cfg_pp)?,
        }))
    }
}

impl Scheduler for Ddim {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_betas(train, "DDIM")?;
        check_share("eta", self.eta)?;
        self.thresholding.check()?;
        if self.ends_at_last_timestep {
            return between_timesteps(train, steps);
        }
        let timesteps = (self.spacing).timesteps(train.len(), steps, self.steps_offset)?;
        let jump = (train.len() / steps) as f64;
        let stage = |t: f64| {
            let t = t.round_ties_even();
            Stage {
                from: train.level(t as usize),
                to: level_or_end(train, t - jump, self.set_alpha_to_one),
            }
        };
        Ok(Plan {
            schedule: train.clone(),
            init_noise_sigma: 1.0,
            stages: timesteps.into_iter().map(stage).collect(),
        })
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        PlannedSampler::start(plan, first, self.clone())
    }
}

impl Solver for Ddim {
    const NAME: &'static str = "Ddim";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let Stage { from, to } = at.stage();
        let prediction = model.predict(&x, from)?;
        let denoised = self.thresholding.apply(prediction.denoised);
        let begun = x.clone();
        let epsilon = if self.use_clipped_model_output {
            (x - denoised.clone() * from.alpha) / from.sigma
        } else {
            prediction.noise
        };
        let epsilon = match prediction.uncond_denoised.filter(|_| self.cfg_pp) {
            Some(uncond) => (begun - uncond * from.alpha) / from.sigma,
            None => epsilon,
        };
        let s = self.eta * posterior_deviation(from, to);
        let direction = (to.sigma * to.sigma - s * s).max(0.0).sqrt();
        let mut x = denoised.clone() * to.alpha + epsilon * direction;
        if self.eta > 0.0 {
            x = x.clone() + noise_like(&x, noise)? * s;
        }
        Ok(Update { x, denoised })
    }
}

/// `σ_t = √((1 − ᾱ_prev)/(1 − ᾱ_t) · (1 − ᾱ_t/ᾱ_prev))`: equation 16, DDPM's posterior.
fn posterior_deviation(from: Level, to: Level) -> f64 {
    let kept = 1.0 - (from.alpha / to.alpha).powi(2);
    (to.sigma / from.sigma) * kept.max(0.0).sqrt()
}
