use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::Levels;
use crate::solver::{History, PlannedSampler, Position, Solver, Update};

/// "DPM++ 2M v2" (stable-diffusion.cpp's `dpm++2mv2`, after a proposal among A1111's users):
/// DPM-Solver++ (2M) with the ratio of two steps never below 1 and the weight of x₀ that of a step
/// of their mean length. Of second order only where steps are even in ln σ, and not consistent
/// where they are not. One model call a step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Dpmpp2mV2 {
    /// Noise levels that a run visits.
    pub levels: Levels,
}

impl Dpmpp2mV2 {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        Ok(Arc::new(Self {
            levels: fields.levels_with_ends(Levels::default())?,
        }))
    }
}

impl Scheduler for Dpmpp2mV2 {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        self.levels.exploding(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        PlannedSampler::start(plan, first, Dpmpp2mV2Sampler(History::new(2)))
    }
}

struct Dpmpp2mV2Sampler(History);

impl Solver for Dpmpp2mV2Sampler {
    const NAME: &'static str = "Dpmpp2mV2";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        _noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (from, to) = (at.stage().from.sigma, at.stage().to.sigma);
        let denoised = model.predict(&x, at.stage().from)?.denoised;
        self.0.push(denoised.clone());
        let kept = to / from;
        let before = at.before(1).filter(|_| self.0.len() > 1);
        let x = match before {
            Some(before) if kept > 0.0 && kept < 1.0 => {
                let (h, last) = (-kept.ln(), (before.from.sigma / from).ln());
                let share = 0.5 * h.min(last) / h.max(last);
                let weight = -(-f64::midpoint(h, last)).exp_m1();
                let led = denoised.clone() * (1.0 + share) - self.0.get(1) * share;
                x * kept + led * weight
            }
            _ => x * kept + denoised.clone() * (1.0 - kept),
        };
        Ok(Update { x, denoised })
    }

    fn save(&self, state: SavedState) -> SavedState {
        self.0.save(state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.0.restore(state)
    }
}
