use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Error, Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, noise_like};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::{Levels, SigmaTable};
use crate::solver::{
    NO_STEP, PlannedSampler, Position, Solver, Update, check_noise_scale, check_up_to_ten,
};

/// Stochastic explicit exponential derivative-free solvers (Gonzalez et al. 2023, arXiv:2305.14267;
/// ComfyUI's `seeds_2`, `seeds_3` and `exp_heun_2_x0`, without noise stable-diffusion.cpp's
/// `res_2s`): an exponential Runge–Kutta step in λ = −ln σ on the SDE with noise share η, whose
/// noise at each stage is that of one path. As many model calls a step as stages, one for the last
/// to σ = 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Seeds {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// Stages of a step, 2 or 3.
    pub stages: usize,
    /// Place of the second of two stages in the step, above 0 to 1; the third order's are at ⅓ and
    /// ⅔.
    pub ratio: f64,
    /// The exact weights of a linear function (`φ₂`) for a step of two stages, not those of the
    /// midpoint rule.
    pub exact: bool,
    /// Share of noise: 0 for the ODE, 1 for the SDE of training.
    pub eta: f64,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
}

impl Default for Seeds {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            stages: 2,
            ratio: 0.5,
            exact: false,
            eta: 1.0,
            s_noise: 1.0,
        }
    }
}

impl Seeds {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            levels: fields.levels_with_ends(default.levels)?,
            stages: fields.count("stages", default.stages)?,
            ratio: fields.number("ratio", default.ratio)?,
            exact: fields.flag("exact", default.exact)?,
            eta: fields.number("eta", default.eta)?,
            s_noise: fields.number("s_noise", default.s_noise)?,
        }))
    }
}

impl Scheduler for Seeds {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        if !(2..=3).contains(&self.stages) {
            return Err(Error::invalid("stages", self.stages, "expected 2 or 3"));
        }
        if !(self.ratio > 0.0 && self.ratio <= 1.0) {
            return Err(Error::invalid("ratio", self.ratio, "expected above 0 to 1"));
        }
        check_up_to_ten("eta", self.eta)?;
        check_up_to_ten("s_noise", self.s_noise)?;
        check_noise_scale(train, "SEEDS", self.eta)?;
        self.levels.exploding(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let sampler = SeedsSampler {
            settings: self.clone(),
            table: self.levels.table(&plan.schedule),
        };
        PlannedSampler::start(plan, first, sampler)
    }
}

struct SeedsSampler {
    settings: Seeds,
    table: SigmaTable,
}

impl Solver for SeedsSampler {
    const NAME: &'static str = "Seeds";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (from, to) = (at.stage().from, at.stage().to);
        let denoised = model.predict(&x, from)?.denoised;
        if to.sigma == 0.0 {
            return Ok(Update::to_clean(denoised));
        }
        let Seeds { ratio, eta, .. } = self.settings;
        let h = (from.sigma / to.sigma).ln();
        if h < NO_STEP {
            return Ok(Update { x, denoised });
        }
        // The weights of x₀ at each stage, of those before it.
        let decay = |r: f64| -(-r * h * (1.0 + eta)).exp_m1();
        let linear = |r: f64| {
            let h = r * h * (1.0 + eta);
            1.0 + (-h).exp_m1() / h
        };
        let mut path = Path {
            at: 0.0,
            noise: None,
        };
        let mut led = |r: f64, weights: &[(&Tensor<4>, f64)]| -> Result<Tensor<4>> {
            let sigma = from.sigma * (-r * h).exp();
            let mean = x.clone() * (-r * h * (1.0 + eta)).exp();
            let mean = weights
                .iter()
                .fold(mean, |sum, (x0, weight)| sum + (*x0).clone() * *weight);
            if eta == 0.0 || self.settings.s_noise == 0.0 {
                return Ok(mean);
            }
            let z = path.to(r, h * eta, &x, noise)?;
            Ok(mean + z * (sigma * self.settings.s_noise))
        };
        let mut ask = |x: &Tensor<4>, r: f64| {
            let level = self.table.level(from.sigma * (-r * h).exp());
            Ok::<_, Error>(model.predict(x, level)?.denoised)
        };
        let x = if self.settings.stages == 2 {
            let second = led(ratio, &[(&denoised, decay(ratio))])?;
            let second = ask(&second, ratio)?;
            let weight = match self.settings.exact {
                true => linear(1.0) / ratio,
                false => decay(1.0) / (2.0 * ratio),
            };
            led(1.0, &[(&denoised, decay(1.0) - weight), (&second, weight)])?
        } else {
            let (r1, r2) = (1.0 / 3.0, 2.0 / 3.0);
            let second = led(r1, &[(&denoised, decay(r1))])?;
            let second = ask(&second, r1)?;
            let weight = linear(r2) * r2 / r1;
            let third = led(r2, &[(&denoised, decay(r2) - weight), (&second, weight)])?;
            let third = ask(&third, r2)?;
            let weight = linear(1.0) / r2;
            led(1.0, &[(&denoised, decay(1.0) - weight), (&third, weight)])?
        };
        Ok(Update { x, denoised })
    }
}

/// The noise of a step, stage after stage.
struct Path {
    /// The share of the step it has reached.
    at: f64,
    noise: Option<Tensor<4>>,
}

impl Path {
    /// The noise at the share `r` of a step of length `h` in λ, relative to σ there: what there is
    /// already shrinks, and what is lacking is drawn.
    fn to(&mut self, r: f64, h: f64, x: &Tensor<4>, noise: &mut dyn Noise) -> Result<Tensor<4>> {
        let part = (r - self.at) * h;
        let drawn = noise_like(x, noise)? * (-(-2.0 * part).exp_m1()).max(0.0).sqrt();
        let sum = match self.noise.take() {
            Some(before) => before * (-part).exp() + drawn,
            None => drawn,
        };
        self.at = r;
        self.noise = Some(sum.clone());
        Ok(sum)
    }
}
