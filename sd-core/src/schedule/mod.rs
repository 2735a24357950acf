//! The noise levels a network was trained on.

mod betas;

use crate::{Error, Level, Result};

pub use betas::BetaSchedule;

/// The noise levels a network was trained on: which σ belongs to which timestep, and how the clean
/// latent fades as σ grows.
///
/// | constructor | x at σ | timestep | networks |
/// |---|---|---|---|
/// | [`betas`](Self::betas) | `x₀ + σ·ε`, or `(x₀ + σ·ε)/√(1 + σ²)` | index of the σ, 0 ..= 999 | Stable Diffusion 1, 2, XL |
/// | [`flow`](Self::flow) | `(1 − σ)·x₀ + σ·ε` | 1000·σ | Stable Diffusion 3, Flux |
/// | [`edm`](Self::edm) | `x₀ + σ·ε` | ¼ ln σ | Playground 2.5 |
///
/// Tables of β are built in f32 exactly as torch builds them (linspace, square, 1 − β, cumulative
/// product), because an all-f64 table differs by 1e-5; everything computed from them is in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseSchedule {
    kind: Kind,
    /// σ of each training timestep, rising.
    sigmas: Vec<f64>,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Betas {
        alphas_cumprod: Vec<f32>,
        betas: Vec<f32>,
        /// ln σ, rounded to f32 as diffusers' table is: with Karras' and other σ the timestep is a
        /// whole number made from these, and the first and last would otherwise fall to the other
        /// side.
        logs: Vec<f64>,
    },
    Flow {
        shift: f64,
    },
    Edm,
}

/// Timesteps of a flow, if not said otherwise, and of a preconditioned model's schedule.
const TIMESTEPS: usize = 1000;

impl NoiseSchedule {
    /// The cumulative products `ᾱ_t` of `1 − β` at `steps` timesteps (1000 for every Stable
    /// Diffusion model).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when `steps` is 0 or above 100,000, or a β is not in `[0, 1]`.
    pub fn betas(betas: &BetaSchedule, steps: usize) -> Result<Self> {
        Ok(Self::from_betas(betas.betas(steps)?))
    }

    fn from_betas(betas: Vec<f32>) -> Self {
        // torch accumulates in f64 and stores each product in f32.
        let products = betas.iter().scan(1.0f64, |product, beta| {
            *product *= f64::from(1.0 - beta);
            Some(*product as f32)
        });
        let alphas_cumprod: Vec<f32> = products.collect();
        let sigmas: Vec<f64> = alphas_cumprod.iter().map(|bar| sigma_of(*bar)).collect();
        let log = |&sigma: &f64| f64::from(f64::from(sigma as f32).max(1e-10).ln() as f32);
        let logs = sigmas.iter().map(log).collect();
        Self {
            kind: Kind::Betas {
                alphas_cumprod,
                betas,
                logs,
            },
            sigmas,
        }
    }

    /// Stable Diffusion's: √β linear from √0.00085 to √0.012 in 1000 steps.
    pub fn stable_diffusion() -> Self {
        let betas = BetaSchedule::ScaledLinear {
            start: 0.00085,
            end: 0.012,
        };
        Self::betas(&betas, 1000).unwrap_or_else(|_| unreachable!("the constants are in range"))
    }

    /// The straight line between picture and noise in 1000 timesteps, `shift`ed towards the noise:
    /// `σ' = shift·σ / (1 + (shift − 1)·σ)` (Esser et al. 2024, arXiv:2403.03206, section 5.3.2; 3
    /// for Stable Diffusion 3, 1 for none).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a shift that is not a number above 0.
    pub fn flow(shift: f64) -> Result<Self> {
        Self::flow_in(shift, TIMESTEPS)
    }

    /// [`flow`](Self::flow) in `steps` timesteps: σ from `1 / steps` to 1 before the shift.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a shift that is not a number above 0, or when `steps` is 0 or
    /// above 100,000.
    pub fn flow_in(shift: f64, steps: usize) -> Result<Self> {
        if !(1..=100_000).contains(&steps) {
            let expected = "expected 1 to 100000";
            return Err(Error::invalid("num_train_timesteps", steps, expected));
        }
        let flow = Self {
            kind: Kind::Flow { shift: 1.0 },
            sigmas: (1..=steps).map(|i| i as f64 / steps as f64).collect(),
        };
        let mut flow = flow.with_shift(shift)?;
        flow.sigmas = flow.sigmas.iter().map(|s| shifted(*s, shift)).collect();
        Ok(flow)
    }

    /// The same flow whose runs are shifted otherwise, the σ it was trained on as they are: a shift
    /// that follows the picture's size (`exp(mu)` of diffusers' `use_dynamic_shifting`).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a shift that is not a number above 0,
    /// [`Error::Unsupported`] for a schedule that is no flow.
    pub fn with_shift(&self, shift: f64) -> Result<Self> {
        if !(shift > 0.0 && shift < 1e6) {
            return Err(Error::invalid("shift", shift, "expected a number above 0"));
        }
        match self.kind {
            Kind::Flow { .. } => Ok(Self {
                kind: Kind::Flow { shift },
                sigmas: self.sigmas.clone(),
            }),
            _ => Err(Error::Unsupported(
                "only the schedule of a flow can be shifted".into(),
            )),
        }
    }

    /// The levels of a model with Karras et al.'s preconditioning (arXiv:2206.00364, table 1):
    /// continuous, from `sigma_min` to `sigma_max` (0.002 and 80), and `¼ ln σ` for a timestep.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when not `0 < sigma_min < sigma_max`.
    pub fn edm(sigma_min: f64, sigma_max: f64) -> Result<Self> {
        for (name, sigma) in [("sigma_min", sigma_min), ("sigma_max", sigma_max)] {
            if !(sigma > 0.0 && sigma < 1e6) {
                let expected = "expected a number above 0, below 1e6";
                return Err(Error::invalid(name, sigma, expected));
            }
        }
        if sigma_min >= sigma_max {
            let expected = format!("expected less than sigma_max, {sigma_max}");
            return Err(Error::invalid("sigma_min", sigma_min, expected));
        }
        let (low, span) = (sigma_min.ln(), (sigma_max / sigma_min).ln());
        let sigma = |i: usize| match i {
            _ if i + 1 == TIMESTEPS => sigma_max,
            _ => (low + span * i as f64 / (TIMESTEPS - 1) as f64).exp(),
        };
        Ok(Self {
            kind: Kind::Edm,
            sigmas: (0..TIMESTEPS).map(sigma).collect(),
        })
    }

    /// The same schedule shifted and scaled so that its last level is pure noise (zero terminal
    /// SNR, algorithm 1 of Lin et al. 2023, arXiv:2305.08891). A flow ends in pure noise as it is,
    /// and a preconditioned model's levels are left alone.
    pub fn with_zero_terminal_snr(&self) -> Self {
        let Some(bars) = self.alphas_cumprod() else {
            return self.clone();
        };
        let roots: Vec<f32> = bars.iter().map(|a| a.sqrt()).collect();
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
        if betas.iter().all(|beta| (0.0..=1.0).contains(beta)) {
            Self::from_betas(betas)
        } else {
            self.clone()
        }
    }

    /// Number of timesteps.
    pub fn len(&self) -> usize {
        self.sigmas.len()
    }

    /// Never true: a schedule has at least one level.
    pub fn is_empty(&self) -> bool {
        self.sigmas.is_empty()
    }

    /// `ᾱ_t` for every timestep, falling; `None` where the schedule is not one of β.
    pub fn alphas_cumprod(&self) -> Option<&[f32]> {
        match &self.kind {
            Kind::Betas { alphas_cumprod, .. } => Some(alphas_cumprod),
            _ => None,
        }
    }

    /// β for every timestep; `None` where the schedule is not one of β.
    pub fn training_betas(&self) -> Option<&[f32]> {
        match &self.kind {
            Kind::Betas { betas, .. } => Some(betas),
            _ => None,
        }
    }

    /// Shift of a run along a flow; `None` where the schedule is no flow.
    pub fn shift(&self) -> Option<f64> {
        match self.kind {
            Kind::Flow { shift } => Some(shift),
            _ => None,
        }
    }

    /// `true` for a schedule of continuous levels with timesteps `¼ ln σ`.
    pub fn is_edm(&self) -> bool {
        self.kind == Kind::Edm
    }

    /// σ of every timestep, rising: `√((1 − ᾱ)/ᾱ)` for β, where `ᾱ = 0` that of `ᾱ = 2⁻²⁴`, the
    /// smallest that half precision tells from 0; diffusers puts it there too.
    pub fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    /// σ at timestep `t`: for β linear between two timesteps and constant beyond the ends.
    pub fn sigma(&self, t: f64) -> f64 {
        match self.kind {
            Kind::Betas { .. } => {
                let t = t.clamp(0.0, (self.len() - 1) as f64);
                let low = t.floor() as usize;
                let high = (low + 1).min(self.len() - 1);
                let slope = self.sigmas[high] - self.sigmas[low];
                slope * (t - low as f64) + self.sigmas[low]
            }
            Kind::Flow { .. } => t / self.len() as f64,
            Kind::Edm => (4.0 * t).exp(),
        }
    }

    /// Timestep of `sigma`: for β linear in ln σ between two timesteps, within the table's ends.
    pub fn timestep(&self, sigma: f64) -> f64 {
        match &self.kind {
            Kind::Betas { .. } if self.len() == 1 => 0.0,
            Kind::Betas { logs, .. } => {
                let log = sigma.max(1e-10).ln();
                let above = logs.partition_point(|&l| l <= log);
                let low = above.saturating_sub(1).min(self.len() - 2);
                let (a, b) = (logs[low], logs[low + 1]);
                let w = ((a - log) / (a - b)).clamp(0.0, 1.0);
                (1.0 - w) * low as f64 + w * (low + 1) as f64
            }
            Kind::Flow { .. } => sigma * self.len() as f64,
            Kind::Edm => 0.25 * sigma.ln(),
        }
    }

    /// The level of training timestep number `t`, in the scale the network was trained in; beyond
    /// the last it is the last.
    pub fn level(&self, t: usize) -> Level {
        let t = t.min(self.len() - 1);
        match &self.kind {
            Kind::Betas { alphas_cumprod, .. } => {
                Level::variance_preserving(t as f64, f64::from(alphas_cumprod[t]))
            }
            _ => self.level_preserving(self.timestep(self.sigmas[t]), self.sigmas[t]),
        }
    }

    /// The level of noise `sigma` told as timestep `t`, in the scale in which
    /// `dx/dσ = (x − x₀)/σ`, k-diffusion's: `x₀ + σ·ε`, for a flow `(1 − σ)·x₀ + σ·ε`.
    pub fn level_exploding(&self, t: f64, sigma: f64) -> Level {
        match self.kind {
            Kind::Flow { .. } => Level::linear(t, sigma),
            _ => Level::variance_exploding(t, sigma),
        }
    }

    /// The level of noise `sigma` told as timestep `t`, in the scale the network was trained in:
    /// for β `(x₀ + σ·ε)/√(1 + σ²)`.
    pub fn level_preserving(&self, t: f64, sigma: f64) -> Level {
        match self.kind {
            Kind::Betas { .. } => {
                let scale = sigma.hypot(1.0);
                Level {
                    t,
                    alpha: 1.0 / scale,
                    sigma: sigma / scale,
                }
            }
            _ => self.level_exploding(t, sigma),
        }
    }

    /// σ of a run along a flow in place of the unshifted `sigma`; of other schedules itself.
    pub fn shifted(&self, sigma: f64) -> f64 {
        match self.kind {
            Kind::Flow { shift } => shifted(sigma, shift),
            _ => sigma,
        }
    }
}

fn sigma_of(alpha_cumprod: f32) -> f64 {
    let bar = if alpha_cumprod == 0.0 {
        2f64.powi(-24)
    } else {
        f64::from(alpha_cumprod)
    };
    ((1.0 - bar) / bar).sqrt()
}

fn shifted(sigma: f64, shift: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}
