use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, SamplerState, Scheduler};
use serde::{Deserialize, Serialize};

use crate::history::History;
use crate::levels::Levels;
use crate::walk::{Advance, Place, Solver, Walk};

/// Euler's method with CFG++ (Chung et al. 2024, arXiv:2406.08070, algorithm 2): the latent goes
/// to the guided x₀, and the noise put back is what the unconditional branch sees, so that guidance
/// never leaves the data's manifold. Without guidance it is Euler's method. One model call a step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EulerCfgPp {
    /// Which noise levels a run visits.
    pub levels: Levels,
}

impl Scheduler for EulerCfgPp {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        let rungs = self.levels.rungs(train, steps)?;
        Ok(rungs.exploding(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        Walk::start(plan, first, self.clone())
    }
}

impl Solver for EulerCfgPp {
    const NAME: &'static str = "EulerCfgPp";

    fn step(
        &mut self,
        at: &Place<'_>,
        x: Tensor<4>,
        model: &mut Model<'_>,
        _noise: &mut dyn Noise,
    ) -> Result<Advance> {
        let (from, to) = (at.stage().from, at.stage().to);
        let prediction = model.predict(&x, from)?;
        let denoised = prediction.denoised;
        let uncond = prediction
            .uncond_denoised
            .unwrap_or_else(|| denoised.clone());
        let noise = (x - uncond) / from.sigma;
        let x = denoised.clone() + noise * to.sigma;
        Ok(Advance { x, denoised })
    }
}

/// DPM-Solver++ (2M) with CFG++ (Chung et al. 2024, arXiv:2406.08070; ComfyUI's
/// `dpmpp_2m_cfg_pp`): the unconditional x₀ takes the guided one's place wherever noise is put
/// back. Without guidance it is DPM++ 2M. One model call a step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Dpmpp2mCfgPp {
    /// Which noise levels a run visits.
    pub levels: Levels,
}

impl Scheduler for Dpmpp2mCfgPp {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        let rungs = self.levels.rungs(train, steps)?;
        Ok(rungs.exploding(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        Walk::start(plan, first, Unconditional(History::new(2)))
    }
}

/// The unconditional x₀ of the last two steps.
struct Unconditional(History);

impl Solver for Unconditional {
    const NAME: &'static str = "Dpmpp2mCfgPp";

    fn step(
        &mut self,
        at: &Place<'_>,
        x: Tensor<4>,
        model: &mut Model<'_>,
        _noise: &mut dyn Noise,
    ) -> Result<Advance> {
        let (from, to) = (at.stage().from.sigma, at.stage().to.sigma);
        let prediction = model.predict(&x, at.stage().from)?;
        let denoised = prediction.denoised;
        let uncond = prediction
            .uncond_denoised
            .unwrap_or_else(|| denoised.clone());
        self.0.push(uncond.clone());
        let kept = to / from;
        let mut next = denoised.clone() + (x - uncond) * kept;
        let before = at.before(1).filter(|_| self.0.len() > 1);
        if let Some(before) = before.filter(|_| kept > 0.0 && kept < 1.0) {
            let ratio = (before.from.sigma / from).ln() / -kept.ln();
            next = next + (denoised.clone() - self.0.get(1)) * ((1.0 - kept) / (2.0 * ratio));
        }
        Ok(Advance { x: next, denoised })
    }

    fn save(&self, state: SamplerState) -> SamplerState {
        self.0.save(state)
    }

    fn restore(&mut self, state: &SamplerState) -> Result<()> {
        self.0.restore(state)
    }
}
