use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::Levels;
use crate::solver::{History, PlannedSampler, Position, Solver, Update, both, check_scale};

/// DPM-Solver++ (2M) with CFG++ (Chung et al. 2024, arXiv:2406.08070; ComfyUI's
/// `dpmpp_2m_cfg_pp`): the unconditional x₀ takes the guided one's place wherever noise is put
/// back. Without guidance it is DPM++ 2M. One model call a step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Dpmpp2mCfgPp {
    /// Noise levels that a run visits.
    pub levels: Levels,
}

impl Dpmpp2mCfgPp {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        Ok(Arc::new(Self {
            levels: fields.levels_with_ends(Levels::default())?,
        }))
    }
}

impl Scheduler for Dpmpp2mCfgPp {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_scale(train, true, "DPM++ 2M CFG++", "DPM++ 2M")?;
        self.levels.exploding(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        PlannedSampler::start(plan, first, Dpmpp2mCfgPpSampler(History::new(2)))
    }
}

/// The unconditional x₀ of the last two steps.
struct Dpmpp2mCfgPpSampler(History);

impl Solver for Dpmpp2mCfgPpSampler {
    const NAME: &'static str = "Dpmpp2mCfgPp";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        _noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (from, to) = (at.stage().from.sigma, at.stage().to.sigma);
        let (denoised, uncond) = both(model.predict(&x, at.stage().from)?);
        self.0.push(uncond.clone());
        let kept = to / from;
        let mut next = denoised.clone() + (x - uncond) * kept;
        let before = at.before(1).filter(|_| self.0.len() > 1);
        if let Some(before) = before.filter(|_| kept > 0.0 && kept < 1.0) {
            let ratio = (before.from.sigma / from).ln() / -kept.ln();
            next = next + (denoised.clone() - self.0.get(1)) * ((1.0 - kept) / (2.0 * ratio));
        }
        Ok(Update { x: next, denoised })
    }

    fn save(&self, state: SavedState) -> SavedState {
        self.0.save(state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.0.restore(state)
    }
}
