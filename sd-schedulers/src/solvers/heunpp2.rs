use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::Levels;
use crate::solver::{PlannedSampler, Position, Solver, Update};

/// "Heun++ 2" (ComfyUI's `sample_heunpp2`): the slope at the step's beginning and Euler's slopes at
/// its end and one step further, weighed by `σ` there over `σ` of the run's beginning. Three model
/// calls a step, fewer at the last two. First order: the weights are no quadrature rule.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HeunPp2 {
    /// Noise levels that a run visits.
    pub levels: Levels,
}

impl HeunPp2 {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        Ok(Arc::new(Self {
            levels: fields.levels_with_ends(Levels::default())?,
        }))
    }
}

impl Scheduler for HeunPp2 {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        self.levels.exploding(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        PlannedSampler::start(plan, first, HeunPp2Sampler { first })
    }
}

struct HeunPp2Sampler {
    /// The stage the run began at: its σ is what the weights refer to.
    first: usize,
}

impl Solver for HeunPp2Sampler {
    const NAME: &'static str = "HeunPp2";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        _noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (from, to) = (at.stage().from, at.stage().to);
        let begin = at.stages()[self.first.min(at.index)].from.sigma;
        let denoised = model.predict(&x, from)?.denoised;
        let slope = (x.clone() - denoised.clone()) / from.sigma;
        let dt = to.sigma - from.sigma;
        let Some(next) = at.stages().get(at.index + 1).filter(|_| to.sigma > 0.0) else {
            let x = x + slope * dt;
            return Ok(Update { x, denoised });
        };
        let x2 = x.clone() + slope.clone() * dt;
        let slope2 = (x2.clone() - model.predict(&x2, to)?.denoised) / to.sigma;
        let last = at.remaining() == 1;
        let share2 = to.sigma / (begin * if last { 2.0 } else { 3.0 });
        let combined = if last {
            slope * (1.0 - share2) + slope2 * share2
        } else {
            let x3 = x2 + slope2.clone() * (next.to.sigma - to.sigma);
            let slope3 = (x3.clone() - model.predict(&x3, next.to)?.denoised) / next.to.sigma;
            let share3 = next.to.sigma / (begin * 3.0);
            slope * (1.0 - share2 - share3) + slope2 * share2 + slope3 * share3
        };
        let x = x + combined * dt;
        Ok(Update { x, denoised })
    }

    fn save(&self, state: sd_core::SavedState) -> sd_core::SavedState {
        state.with_number("first", self.first as f64)
    }

    fn restore(&mut self, state: &sd_core::SavedState) -> Result<()> {
        self.first = state.number("first").unwrap_or(0.0) as usize;
        Ok(())
    }
}
