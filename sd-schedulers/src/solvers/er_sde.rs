use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler, noise_like,
};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::Levels;
use crate::solver::{
    History, PlannedSampler, Position, Solver, Update, check_order, check_scale, check_up_to_ten,
};

/// Extended reverse-time SDE solver (Cui et al. 2023, arXiv:2309.06169, algorithm 1 in the
/// variance-exploding form): ER-SDE-Solver-1 to -3. One model call a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErSde {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// The solver's order, 1 to 3.
    pub order: usize,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
    /// SDE that is solved.
    pub noise_scale: NoiseScale,
}

/// The noise scale function φ(σ) of an [`ErSde`], which chooses among the SDEs that lead to the
/// same distribution.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseScale {
    /// `σ (exp(σ^0.3) + 10)`, which the authors found best.
    #[default]
    ErSde,
    /// `σ^(1 + eta)`: the reverse-time SDE of training for eta = 1.
    ReverseTime {
        /// Share of noise, 0 (the ODE) and more.
        eta: f64,
    },
    /// `σ`: no noise, the probability-flow ODE.
    Ode,
}

impl NoiseScale {
    fn at(self, sigma: f64) -> f64 {
        match self {
            Self::ErSde => sigma * (sigma.powf(0.3).exp() + 10.0),
            Self::ReverseTime { eta } => sigma.powf(1.0 + eta),
            Self::Ode => sigma,
        }
    }
}

impl Default for ErSde {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            order: 3,
            s_noise: 1.0,
            noise_scale: NoiseScale::ErSde,
        }
    }
}

impl ErSde {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        let reverse_time = NoiseScale::ReverseTime {
            eta: fields.number("eta", 1.0)?,
        };
        let scales = [
            ("er_sde", NoiseScale::ErSde),
            ("reverse_time", reverse_time),
            ("ode", NoiseScale::Ode),
        ];
        Ok(Arc::new(Self {
            levels: fields.levels_with_ends(default.levels)?,
            order: fields.count("order", default.order)?,
            s_noise: fields.number("s_noise", default.s_noise)?,
            noise_scale: fields.choice("noise_scale", default.noise_scale, &scales)?,
        }))
    }
}

impl Scheduler for ErSde {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_order("order", self.order, 3)?;
        check_up_to_ten("s_noise", self.s_noise)?;
        if let NoiseScale::ReverseTime { eta } = self.noise_scale {
            check_up_to_ten("eta", eta)?;
        }
        let noisy = !matches!(
            self.noise_scale,
            NoiseScale::Ode | NoiseScale::ReverseTime { eta: 0.0 }
        );
        check_scale(train, noisy, "ER-SDE with noise", "the noise scale ode")?;
        self.levels.exploding(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let sampler = ErSdeSampler {
            settings: self.clone(),
            outputs: History::new(3),
        };
        PlannedSampler::start(plan, first, sampler)
    }
}

struct ErSdeSampler {
    settings: ErSde,
    outputs: History,
}

impl Solver for ErSdeSampler {
    const NAME: &'static str = "ErSde";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (from, to) = (at.stage().from.sigma, at.stage().to.sigma);
        let denoised = model.predict(&x, at.stage().from)?.denoised;
        self.outputs.push(denoised.clone());
        if to == 0.0 {
            return Ok(Update::to_clean(denoised));
        }
        let phi = |sigma| self.settings.noise_scale.at(sigma);
        let kept = phi(to) / phi(from);
        let mut next = x * kept + denoised.clone() * (1.0 - kept);
        let order = self.outputs.len().min(self.settings.order);
        let dt = to - from;
        let sigma = |age| at.before(age).map_or(from, |stage| stage.from.sigma);
        let slope = |age: usize| {
            let step = sigma(age) - sigma(age + 1);
            (self.outputs.get(age) - self.outputs.get(age + 1)) / step
        };
        if order >= 2 {
            let [first, second] = integrals(from, to, phi);
            next = next + slope(0) * (dt + first * phi(to));
            if order == 3 {
                let bend = (slope(0) - slope(1)) / ((from - sigma(2)) / 2.0);
                next = next + bend * (dt * dt / 2.0 + second * phi(to));
            }
        }
        let variance = to * to - (from * kept).powi(2);
        if self.settings.s_noise > 0.0 && variance > 0.0 {
            let deviation = variance.sqrt() * self.settings.s_noise;
            next = next.clone() + noise_like(&next, noise)? * deviation;
        }
        Ok(Update { x: next, denoised })
    }

    fn save(&self, state: SavedState) -> SavedState {
        self.outputs.save(state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.outputs.restore(state)
    }
}

/// `∫ dσ/φ` and `∫ (σ − from) dσ/φ` from `to` up to `from`, by the authors' sum of 200 points.
fn integrals(from: f64, to: f64, phi: impl Fn(f64) -> f64) -> [f64; 2] {
    const POINTS: usize = 200;
    let width = (from - to) / POINTS as f64;
    let points = (0..POINTS).map(|i| to + i as f64 * width);
    points.fold([0.0; 2], |[first, second], sigma| {
        let share = width / phi(sigma);
        [first + share, second + (sigma - from) * share]
    })
}
