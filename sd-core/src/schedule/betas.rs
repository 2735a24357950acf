use std::f64::consts::PI;

use crate::{Error, Result};

/// Spacing of a training schedule's β (diffusers' `beta_schedule`).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum BetaSchedule {
    /// β from `start` to `end` in equal steps (Ho et al. 2020).
    Linear {
        /// β₀.
        start: f64,
        /// The last β.
        end: f64,
    },
    /// √β in equal steps: latent diffusion, all Stable Diffusion models.
    ScaledLinear {
        /// β₀.
        start: f64,
        /// The last β.
        end: f64,
    },
    /// Nichol & Dhariwal's cosine (arXiv:2102.09672), β capped at 0.999.
    SquaredCosCapV2,
    /// A sigmoid between `start` and `end` (GeoDiff).
    Sigmoid {
        /// β before the first.
        start: f64,
        /// β after the last.
        end: f64,
    },
    /// β given one by one.
    Trained(Vec<f32>),
}

impl BetaSchedule {
    /// The β of `steps` timesteps, in f32 as torch makes them.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when `steps` is 0 or above 100,000, or a β is not in `[0, 1]`.
    pub(super) fn betas(&self, steps: usize) -> Result<Vec<f32>> {
        if !(1..=100_000).contains(&steps) {
            let expected = "expected 1 to 100000";
            return Err(Error::invalid("num_train_timesteps", steps, expected));
        }
        let betas = match self {
            Self::Linear { start, end } => linspace(*start, *end, steps),
            Self::ScaledLinear { start, end } => {
                let roots = linspace(start.sqrt(), end.sqrt(), steps);
                roots.into_iter().map(|root| root * root).collect()
            }
            Self::SquaredCosCapV2 => squared_cosine(steps),
            Self::Sigmoid { start, end } => {
                let (start, span) = (*start as f32, (end - start) as f32);
                let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
                let x = linspace(-6.0, 6.0, steps);
                x.into_iter().map(|x| sigmoid(x) * span + start).collect()
            }
            Self::Trained(betas) if betas.len() == steps => betas.clone(),
            Self::Trained(betas) => {
                let expected = format!("expected num_train_timesteps = {steps} of them");
                return Err(Error::invalid("trained_betas", betas.len(), expected));
            }
        };
        match betas.iter().find(|beta| !(0.0..=1.0).contains(*beta)) {
            Some(beta) => Err(Error::invalid("beta", beta, "expected 0 to 1")),
            None => Ok(betas),
        }
    }
}

/// `torch.linspace(start, end, n)` in float32, which counts from both ends to the middle and rounds
/// once, after product and sum.
fn linspace(start: f64, end: f64, n: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    if n == 1 {
        return vec![start];
    }
    let step = (end - start) / (n - 1) as f32;
    let value = |i: usize| {
        if i < n / 2 {
            step.mul_add(i as f32, start)
        } else {
            (-step).mul_add((n - 1 - i) as f32, end)
        }
    };
    (0..n).map(value).collect()
}

fn squared_cosine(n: usize) -> Vec<f32> {
    let bar = |t: f64| ((t + 0.008) / 1.008 * PI / 2.0).cos().powi(2);
    let beta = |i: usize| 1.0 - bar((i + 1) as f64 / n as f64) / bar(i as f64 / n as f64);
    (0..n).map(|i| beta(i).min(0.999) as f32).collect()
}
