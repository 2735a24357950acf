use std::f64::consts::PI;

use crate::{Error, Level, Result};

/// How a training schedule's β are spaced (diffusers' `beta_schedule`).
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

/// The noise levels a network was trained on: the cumulative products `ᾱ_t`, one per timestep.
///
/// They are built in f32 exactly as torch builds them (linspace, square, 1 − β, cumulative
/// product), because an all-f64 table differs by 1e-5; everything computed from them is in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseSchedule {
    alphas_cumprod: Vec<f32>,
    betas: Vec<f32>,
}

impl NoiseSchedule {
    /// The table of `steps` timesteps (1000 for every Stable Diffusion model).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when `steps` is 0 or above 100,000, or a β is not in `[0, 1)`
    /// (exactly 1 is allowed at the end).
    pub fn new(betas: &BetaSchedule, steps: usize) -> Result<Self> {
        if !(1..=100_000).contains(&steps) {
            let expected = "expected 1 to 100000";
            return Err(Error::invalid("num_train_timesteps", steps, expected));
        }
        let betas = match betas {
            BetaSchedule::Linear { start, end } => linspace(*start, *end, steps),
            BetaSchedule::ScaledLinear { start, end } => {
                let roots = linspace(start.sqrt(), end.sqrt(), steps);
                roots.into_iter().map(|root| root * root).collect()
            }
            BetaSchedule::SquaredCosCapV2 => squared_cosine(steps),
            BetaSchedule::Sigmoid { start, end } => {
                let (start, span) = (*start as f32, (end - start) as f32);
                let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
                let x = linspace(-6.0, 6.0, steps);
                x.into_iter().map(|x| sigmoid(x) * span + start).collect()
            }
            BetaSchedule::Trained(betas) if betas.len() == steps => betas.clone(),
            BetaSchedule::Trained(betas) => {
                let expected = format!("expected num_train_timesteps = {steps} of them");
                return Err(Error::invalid("trained_betas", betas.len(), expected));
            }
        };
        Self::from_betas(betas)
    }

    fn from_betas(betas: Vec<f32>) -> Result<Self> {
        if let Some(beta) = betas.iter().find(|beta| !(0.0..=1.0).contains(*beta)) {
            return Err(Error::invalid("beta", beta, "expected 0 to 1"));
        }
        // torch accumulates in f64 and stores each product in f32.
        let products = betas.iter().scan(1.0f64, |product, beta| {
            *product *= f64::from(1.0 - beta);
            Some(*product as f32)
        });
        Ok(Self {
            alphas_cumprod: products.collect(),
            betas,
        })
    }

    /// Stable Diffusion's: √β linear from √0.00085 to √0.012 in 1000 steps.
    pub fn stable_diffusion() -> Self {
        let betas = BetaSchedule::ScaledLinear {
            start: 0.00085,
            end: 0.012,
        };
        Self::new(&betas, 1000).unwrap_or_else(|_| unreachable!("the constants are in range"))
    }

    /// The same schedule shifted and scaled so that its last level is pure noise (zero terminal
    /// SNR, algorithm 1 of Lin et al. 2023, arXiv:2305.08891).
    pub fn with_zero_terminal_snr(&self) -> Self {
        let roots: Vec<f32> = self.alphas_cumprod.iter().map(|a| a.sqrt()).collect();
        let (first, last) = (roots[0], roots[roots.len() - 1]);
        let bars: Vec<f32> = roots
            .iter()
            .map(|root| {
                let shifted = (root - last) * (first / (first - last));
                shifted * shifted
            })
            .collect();
        // diffusers goes back to β and takes the cumulative product once more.
        let mut betas = Vec::with_capacity(bars.len());
        let mut previous = None;
        for &bar in &bars {
            betas.push(1.0 - previous.map_or(bar, |p: f32| bar / p));
            previous = Some(bar);
        }
        Self::from_betas(betas).unwrap_or_else(|_| self.clone())
    }

    /// Number of timesteps.
    pub fn len(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// Never true: a schedule has at least one level.
    pub fn is_empty(&self) -> bool {
        self.alphas_cumprod.is_empty()
    }

    /// `ᾱ_t` for every timestep, falling.
    pub fn alphas_cumprod(&self) -> &[f32] {
        &self.alphas_cumprod
    }

    /// β for every timestep.
    pub fn betas(&self) -> &[f32] {
        &self.betas
    }

    /// The variance-preserving level of timestep `t`; beyond the last it is the last.
    pub fn level(&self, t: usize) -> Level {
        let bar = self.alphas_cumprod[t.min(self.len() - 1)];
        Level::variance_preserving(t as f64, f64::from(bar))
    }

    /// `σ_t = √((1 − ᾱ_t) / ᾱ_t)`, k-diffusion's noise level, for every timestep, rising.
    pub fn sigmas(&self) -> Vec<f64> {
        let sigma = |&bar: &f32| ((1.0 - f64::from(bar)) / f64::from(bar)).sqrt();
        self.alphas_cumprod.iter().map(sigma).collect()
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
