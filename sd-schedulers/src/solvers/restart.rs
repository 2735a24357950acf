use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler, Stage, noise_like,
};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::{Levels, SigmaSchedule, Sigmas};
use crate::solver::{
    PlannedSampler, Position, Solver, Update, check_ancestral, check_scale, heun_step,
};

/// Restart sampling (Xu et al. 2023, arXiv:2306.14878, algorithm 2, with A1111's choice of
/// intervals): Heun's method that, once it has come to σ ≈ 0.1, adds noise up to σ ≈ 2 and goes the
/// way again, once with 20 steps and more, twice with 36 and more. Two model calls a step but for
/// the last one to σ = 0.
///
/// Its plan is the only one that rises. All of a run of 20 steps and more is on Karras' σ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Restart {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            levels: Levels::karras(),
            s_noise: 1.0,
        }
    }
}

/// The σ at which noise is added, and up to which.
const RESTART: (f64, f64) = (0.1, 2.0);

impl Restart {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            // A configuration that names no schedule has none, as with every other class.
            levels: fields.levels_with_ends(Levels::default())?,
            s_noise: fields.number("s_noise", default.s_noise)?,
        }))
    }
}

impl Scheduler for Restart {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_ancestral(1.0, self.s_noise)?;
        let whole = self.levels.resolve(train, steps)?;
        let (length, times) = match steps {
            36.. => (steps / 4, 2),
            20.. => (9, 1),
            _ => (0, 0),
        };
        if times == 0 {
            return Ok(whole.exploding(train, &self.levels));
        }
        check_scale(train, true, "Restart of 20 steps and more", "Heun")?;
        let karras = |max, min, count| SigmaSchedule::KARRAS.between(max, min, count);
        let (max, min) = (whole.values[0], whole.values[whole.values.len() - 2]);
        let once = karras(max, min, steps - length * times)?.unwrap_or_default();
        let table = self.levels.table(train);
        let once = Sigmas {
            timesteps: once.iter().map(|&s| table.timestep(s)).collect(),
            values: once.into_iter().chain([0.0]).collect(),
        };
        let mut plan = once.exploding(train, &self.levels);
        let nearest = |sigma: f64| {
            let distances = once.values.iter().map(|s| (s - sigma).abs()).enumerate();
            distances
                .min_by(|a, b| a.1.total_cmp(&b.1))
                .map_or(0, |(i, _)| i)
        };
        let (low, high) = (nearest(RESTART.0), nearest(RESTART.1));
        if high < low {
            let (max, min) = (once.values[high], once.values[low]);
            let sigmas = karras(max, min, length + 1)?.unwrap_or_default();
            let again: Vec<Stage> = sigmas
                .windows(2)
                .map(|pair| Stage {
                    from: table.level(pair[0]),
                    to: table.level(pair[1]),
                })
                .collect();
            plan.stages.splice(low..low, again.repeat(times));
        }
        Ok(plan)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let sampler = RestartSampler {
            s_noise: self.s_noise,
            reached: None,
        };
        PlannedSampler::start(plan, first, sampler)
    }
}

struct RestartSampler {
    s_noise: f64,
    /// The σ the run has come to.
    reached: Option<f64>,
}

impl Solver for RestartSampler {
    const NAME: &'static str = "Restart";

    fn step(
        &mut self,
        at: &Position<'_>,
        mut x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let Stage { from, to } = at.stage();
        if let Some(reached) = self.reached.filter(|reached| *reached < from.sigma) {
            let added = (from.sigma.powi(2) - reached * reached).sqrt() * self.s_noise;
            x = x.clone() + noise_like(&x, noise)? * added;
        }
        self.reached = Some(to.sigma);
        heun_step(at.stage(), x, model, |x0| x0)
    }

    fn save(&self, state: SavedState) -> SavedState {
        match self.reached {
            Some(sigma) => state.with_number("reached", sigma),
            None => state,
        }
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.reached = state.number("reached");
        Ok(())
    }
}
