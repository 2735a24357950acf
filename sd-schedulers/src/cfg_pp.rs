use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Model, Noise, NoiseSchedule, Plan, Prediction, Result, Sampler, SamplerState, Scheduler,
    noise_like,
};
use serde::{Deserialize, Serialize};

use crate::euler_ancestral::{ancestral, check_ancestral};
use crate::history::History;
use crate::levels::Levels;
use crate::walk::{Advance, Place, Solver, Walk};

/// Euler's method with CFG++ (Chung et al. 2024, arXiv:2406.08070, algorithm 2): the latent goes
/// to the guided x₀, and the noise put back is what the unconditional branch sees, so that guidance
/// never leaves the data's manifold. Without guidance it is Euler's method, with `eta` above 0 its
/// ancestral form. One model call a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EulerCfgPp {
    /// Which noise levels a run visits.
    pub levels: Levels,
    /// Share of ancestral noise, 0 (none) to 1.
    pub eta: f64,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
}

impl Default for EulerCfgPp {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            eta: 0.0,
            s_noise: 1.0,
        }
    }
}

impl Scheduler for EulerCfgPp {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_ancestral(self.eta, self.s_noise)?;
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
        noise: &mut dyn Noise,
    ) -> Result<Advance> {
        let (from, to) = (at.stage().from, at.stage().to);
        let (denoised, uncond) = both(model.predict(&x, from)?);
        let (down, up) = ancestral(from.sigma, to.sigma, self.eta);
        let mut x = denoised.clone() + (x - uncond) * (down / from.sigma);
        if up > 0.0 {
            x = x.clone() + noise_like(&x, noise)? * (up * self.s_noise);
        }
        Ok(Advance { x, denoised })
    }
}

/// The guided and the unconditional x₀, which is the guided one where there is no guidance.
pub(crate) fn both(prediction: Prediction) -> (Tensor<4>, Tensor<4>) {
    let denoised = prediction.denoised;
    let uncond = prediction.uncond_denoised;
    let uncond = uncond.unwrap_or_else(|| denoised.clone());
    (denoised, uncond)
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
        let (denoised, uncond) = both(model.predict(&x, at.stage().from)?);
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
