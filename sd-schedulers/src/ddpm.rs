use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, Stage, noise_like};
use serde::{Deserialize, Serialize};

use crate::clip::Clip;
use crate::ddim::level_or_end;
use crate::spacing::Spacing;
use crate::walk::{Advance, Place, Solver, Walk};

/// Ancestral sampling of denoising diffusion models (Ho et al. 2020, arXiv:2006.11239,
/// algorithm 2), on any sub-sequence of the training timesteps: the posterior mean (equation 7)
/// plus noise. One model call a step.
///
/// Its default settings are those of diffusers' `DDPMScheduler`, made for models of pixels: a
/// latent model wants `clip: Clip::Off`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ddpm {
    /// How timesteps are spread.
    pub spacing: Spacing,
    /// Added to every timestep of [`Spacing::Leading`]; 1 for Stable Diffusion.
    pub steps_offset: usize,
    /// What is done to the predicted x₀.
    pub clip: Clip,
    /// Which of the two bounds of the posterior's variance is used.
    pub variance: Variance,
}

/// The variance of a DDPM step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variance {
    /// The posterior's, `β̃ = (1 − ᾱ_prev)/(1 − ᾱ) β`: right when x₀ is known.
    #[default]
    FixedSmall,
    /// The forward step's, `β`: right when x₀ is standard normal.
    FixedLarge,
}

impl Default for Ddpm {
    fn default() -> Self {
        Self {
            spacing: Spacing::Leading,
            steps_offset: 0,
            clip: Clip::Range(1.0),
            variance: Variance::FixedSmall,
        }
    }
}

impl Scheduler for Ddpm {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        self.clip.check()?;
        let timesteps = (self.spacing).timesteps(train.len(), steps, self.steps_offset)?;
        let whole: Vec<f64> = timesteps.iter().map(|t| t.round_ties_even()).collect();
        let stage = |i: usize| Stage {
            from: train.level(whole[i] as usize),
            to: level_or_end(train, whole.get(i + 1).copied().unwrap_or(-1.0), true),
        };
        Ok(Plan {
            schedule: train.clone(),
            init_noise_sigma: 1.0,
            stages: (0..steps).map(stage).collect(),
        })
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        Walk::start(plan, first, self.clone())
    }
}

impl Solver for Ddpm {
    const NAME: &'static str = "Ddpm";

    fn step(
        &mut self,
        at: &Place<'_>,
        x: Tensor<4>,
        model: &mut Model<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Advance> {
        let Stage { from, to } = at.stage();
        let denoised = self.clip.apply(model.predict(&x, from)?.denoised);
        // α and β of the step, as if it were one of training.
        let kept = from.alpha / to.alpha;
        let beta = 1.0 - kept * kept;
        let (var, var_to) = (from.sigma.powi(2), to.sigma.powi(2));
        let mean = denoised.clone() * (to.alpha * beta / var) + x * (kept * var_to / var);
        if from.t == 0.0 {
            return Ok(Advance { x: mean, denoised });
        }
        let variance = match self.variance {
            Variance::FixedSmall => (var_to / var * beta).max(1e-20),
            Variance::FixedLarge => beta,
        };
        let x = mean.clone() + noise_like(&mean, noise)? * variance.sqrt();
        Ok(Advance { x, denoised })
    }
}
