use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Error, Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, Stage, noise_like,
};
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
    /// What the network says, as it is. Needs one with twice the channels in its output.
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
            clip: Clip::Range(1.0),
            variance: Variance::FixedSmall,
            timesteps: None,
        }
    }
}

impl Scheduler for Ddpm {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        self.clip.check()?;
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
        let prediction = model.predict(&x, from)?;
        let denoised = self.clip.apply(prediction.denoised);
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
            return Ok(Advance { x: mean, denoised });
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
        Ok(Advance {
            x: mean + added,
            denoised,
        })
    }
}

/// `own` if it has `steps` timesteps that fall and that a model of `train` timesteps has.
pub(crate) fn own_timesteps(
    own: &[usize],
    train: usize,
    steps: usize,
) -> Result<impl Iterator<Item = usize>> {
    let falling = own.windows(2).all(|pair| pair[0] > pair[1]);
    if own.len() == steps && falling && own.first().is_some_and(|&t| t < train) {
        return Ok(own.iter().copied());
    }
    let expected = format!("expected {steps} falling ones, one per step, below {train}");
    let found = format!("a list of {}", own.len());
    Err(Error::invalid("timesteps", found, expected))
}
