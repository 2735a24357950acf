use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Error, Level, Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, Stage, noise_like,
};
use serde::{Deserialize, Serialize};

use crate::clip::Clip;
use crate::euler_ancestral::check_share;
use crate::spacing::{Spacing, check_steps};
use crate::walk::{Advance, Place, Solver, Walk};

/// Denoising diffusion implicit models (Song, Meng & Ermon 2020, arXiv:2010.02502), equation 12:
/// `x_prev = √ᾱ_prev x₀ + √(1 − ᾱ_prev − s²) ε + s z` with `s = η σ_t`. One model call a step.
///
/// Its default settings are those of diffusers' `DDIMScheduler`, made for models of pixels: a
/// latent model wants `clip: Clip::Off`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ddim {
    /// How timesteps are spread.
    pub spacing: Spacing,
    /// Added to every timestep of [`Spacing::Leading`]; 1 for Stable Diffusion.
    pub steps_offset: usize,
    /// Whether the last step ends without noise (`ᾱ = 1`) or at the level of timestep 0.
    pub set_alpha_to_one: bool,
    /// What is done to the predicted x₀.
    pub clip: Clip,
    /// Share of DDPM's noise in each step, 0 (deterministic) to 1.
    pub eta: f64,
    /// Whether ε is taken from the clipped x₀ again.
    pub use_clipped_model_output: bool,
    /// Whether the run ends at the last of its timesteps, 1, and the steps are those between them,
    /// one fewer than asked for (A1111). The spacing counts as leading with an offset of 1.
    pub ends_at_last_timestep: bool,
    /// Whether the noise put back is the unconditional branch's (A1111's DDIM CFG++).
    pub cfg_pp: bool,
}

impl Default for Ddim {
    fn default() -> Self {
        Self {
            spacing: Spacing::Leading,
            steps_offset: 0,
            set_alpha_to_one: true,
            clip: Clip::Range(1.0),
            eta: 0.0,
            use_clipped_model_output: false,
            ends_at_last_timestep: false,
            cfg_pp: false,
        }
    }
}

impl Scheduler for Ddim {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_share("eta", self.eta)?;
        self.clip.check()?;
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
        Walk::start(plan, first, self.clone())
    }
}

/// A plan from each of A1111's timesteps for DDIM and PLMS, multiples of `N / steps` plus 1, to the
/// next.
pub(crate) fn between_timesteps(train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
    check_steps(steps, train.len())?;
    let last = train.len() - 1;
    let rising = (0..train.len()).step_by(train.len() / steps);
    let levels: Vec<Level> = rising.map(|t| train.level((t + 1).min(last))).collect();
    let stages = levels.windows(2).rev().map(|pair| Stage {
        from: pair[1],
        to: pair[0],
    });
    let stages: Vec<Stage> = stages.collect();
    if stages.is_empty() {
        let expected = "expected at least 2: A1111's DDIM takes the steps between its timesteps";
        return Err(Error::invalid("steps", steps, expected));
    }
    Ok(Plan {
        schedule: train.clone(),
        init_noise_sigma: 1.0,
        stages,
    })
}

/// The level of timestep `t`; below 0 the end of the run, `ᾱ = 1` or that of timestep 0.
pub(crate) fn level_or_end(train: &NoiseSchedule, t: f64, set_alpha_to_one: bool) -> Level {
    if t >= 0.0 {
        return train.level(t as usize);
    }
    let end = if set_alpha_to_one {
        Level::variance_preserving(t, 1.0)
    } else {
        train.level(0)
    };
    Level { t, ..end }
}

impl Solver for Ddim {
    const NAME: &'static str = "Ddim";

    fn step(
        &mut self,
        at: &Place<'_>,
        x: Tensor<4>,
        model: &mut Model<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Advance> {
        let Stage { from, to } = at.stage();
        let prediction = model.predict(&x, from)?;
        let denoised = self.clip.apply(prediction.denoised);
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
        Ok(Advance { x, denoised })
    }
}

/// `σ_t = √((1 − ᾱ_prev)/(1 − ᾱ_t) · (1 − ᾱ_t/ᾱ_prev))`: equation 16, DDPM's posterior.
fn posterior_deviation(from: Level, to: Level) -> f64 {
    let kept = 1.0 - (from.alpha / to.alpha).powi(2);
    (to.sigma / from.sigma) * kept.max(0.0).sqrt()
}
