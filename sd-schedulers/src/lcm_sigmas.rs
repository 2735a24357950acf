use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, noise_like};
use serde::{Deserialize, Serialize};

use crate::euler_ancestral::check_ancestral;
use crate::levels::Levels;
use crate::walk::{Advance, Place, Solver, Walk};

/// Multistep consistency sampling on any σ (ComfyUI's and stable-diffusion.cpp's `lcm`): to x₀ in
/// one step, and back to the next σ with new noise, without the boundary condition of
/// [`Lcm`](crate::Lcm). One model call a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LcmSigmas {
    /// Which noise levels a run visits.
    pub levels: Levels,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
}

impl Default for LcmSigmas {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            s_noise: 1.0,
        }
    }
}

impl Scheduler for LcmSigmas {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_ancestral(1.0, self.s_noise)?;
        let rungs = self.levels.rungs(train, steps)?;
        Ok(rungs.exploding(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        Walk::start(plan, first, self.clone())
    }
}

impl Solver for LcmSigmas {
    const NAME: &'static str = "LcmSigmas";

    fn step(
        &mut self,
        at: &Place<'_>,
        x: Tensor<4>,
        model: &mut Model<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Advance> {
        let to = at.stage().to.sigma;
        let denoised = model.predict(&x, at.stage().from)?.denoised;
        let mut x = denoised.clone();
        if to > 0.0 {
            x = x + noise_like(&denoised, noise)? * (to * self.s_noise);
        }
        Ok(Advance { x, denoised })
    }
}
