use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Error, Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, Stage, noise_like,
};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::{Spacing, level_or_end, own_timesteps};
use crate::solver::{PlannedSampler, Position, Solver, Thresholding, Update, check_betas};

/// Ancestral sampling of denoising diffusion models (Ho et al. 2020, arXiv:2006.11239,
/// algorithm 2), on any sub-sequence of the training timesteps: the posterior mean (equation 7)
/// plus noise. One model call a step.
///
/// Its default settings are those of diffusers' `DDPMScheduler`, made for models of pixels: a
/// latent model wants `thresholding: Thresholding::Off`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ddpm {
    /// Spread of the timesteps.
    pub spacing: Spacing,
    /// Offset of every timestep of [`Spacing::Leading`]; 1 for Stable Diffusion.
    pub steps_offset: usize,
    /// Thresholding of the predicted x₀.
    pub thresholding: Thresholding,
    /// The variance of a step.
    pub variance: Variance,
    /// Timesteps of one's own, falling, in place of the spacing's; as many as steps.
    pub timesteps: Option<Vec<usize>>,
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
    /// The network's own word, as it is. Needs one with twice the channels in its output.
    Learned,
    /// Between the two fixed ones, geometrically, where the network says: −1 is the small one, 1
    /// the large (equation 15 of Nichol & Dhariwal 2021, arXiv:2102.09672). Needs one with twice
    /// the channels in its output.
    LearnedRange,
}

impl Default for Ddpm {
    fn default() -> Self {
        Self {
            spacing: Spacing::Leading,
            steps_offset: 0,
            thresholding: Thresholding::Range(1.0),
            variance: Variance::FixedSmall,
            timesteps: None,
        }
    }
}

impl Ddpm {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        let variances = [
            ("fixed_small", Variance::FixedSmall),
            ("fixed_small_log", Variance::FixedSmall),
            ("fixed_large", Variance::FixedLarge),
            ("learned", Variance::Learned),
            ("learned_range", Variance::LearnedRange),
        ];
        Ok(Arc::new(Self {
            spacing: fields.spacing(default.spacing)?,
            steps_offset: fields.count("steps_offset", default.steps_offset)?,
            thresholding: fields.clip_or_thresholding(default.thresholding)?,
            variance: fields.choice("variance_type", default.variance, &variances)?,
            timesteps: fields.own_timesteps()?,
        }))
    }
}

impl Scheduler for Ddpm {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_betas(train, "DDPM")?;
        self.thresholding.check()?;
        let whole: Vec<f64> = match &self.timesteps {
            Some(own) => own_timesteps(own, train.len(), steps)?
                .map(|t| t as f64)
                .collect(),
            None => (self.spacing)
                .timesteps(train.len(), steps, self.steps_offset)?
                .iter()
                .map(|t| t.round_ties_even())
                .collect(),
        };
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
        PlannedSampler::start(plan, first, self.clone())
    }
}

impl Solver for Ddpm {
    const NAME: &'static str = "Ddpm";

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
        let learned = || {
            prediction.variance.ok_or_else(|| {
                Error::Unsupported(
                    "variance_type learned and learned_range need a network whose output has twice \
                     the latent's channels; this one's has not: use fixed_small"
                        .into(),
                )
            })
        };
        // α and β of the step, as if it were one of training.
        let kept = from.alpha / to.alpha;
        let beta = 1.0 - kept * kept;
        let (var, var_to) = (from.sigma.powi(2), to.sigma.powi(2));
        let mean = denoised.clone() * (to.alpha * beta / var) + x * (kept * var_to / var);
        if from.t == 0.0 {
            return Ok(Update { x: mean, denoised });
        }
        let z = noise_like(&mean, noise)?;
        let small = (var_to / var * beta).max(1e-20);
        let added = match self.variance {
            Variance::FixedSmall => z * small.sqrt(),
            Variance::FixedLarge => z * beta.sqrt(),
            Variance::Learned => z * learned()?.sqrt(),
            Variance::LearnedRange => {
                let share = (learned()? + 1.0) / 2.0;
                let log = share * (beta.ln() - small.ln()) + small.ln();
                z * (log * 0.5).exp()
            }
        };
        Ok(Update {
            x: mean + added,
            denoised,
        })
    }
}
