use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, noise_like};
use serde::{Deserialize, Serialize};

use crate::levels::Levels;
use crate::walk::{Advance, Place, Solver, Walk};

/// Ancestral sampling with Euler steps (k-diffusion's `sample_euler_ancestral`): each step goes
/// further down than it has to, to `σ_down`, and adds the noise `σ_up` that brings it back,
/// `σ_down² + σ_up² = σ_next²`. One model call a step.
///
/// Its default settings are those of diffusers' `EulerAncestralDiscreteScheduler`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EulerAncestral {
    /// Which noise levels a run visits.
    pub levels: Levels,
    /// Share of the ancestral noise, 0 (none: plain Euler) to 1.
    pub eta: f64,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
}

impl Default for EulerAncestral {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            eta: 1.0,
            s_noise: 1.0,
        }
    }
}

impl Scheduler for EulerAncestral {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_ancestral(self.eta, self.s_noise)?;
        let rungs = self.levels.rungs(train, steps)?;
        Ok(rungs.exploding(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        Walk::start(plan, first, self.clone())
    }
}

impl Solver for EulerAncestral {
    const NAME: &'static str = "EulerAncestral";

    fn step(
        &mut self,
        at: &Place<'_>,
        x: Tensor<4>,
        model: &mut Model<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Advance> {
        let stage = at.stage();
        let sigma = stage.from.sigma;
        let denoised = model.predict(&x, stage.from)?.denoised;
        let (down, up) = ancestral(sigma, stage.to.sigma, self.eta);
        let derivative = (x.clone() - denoised.clone()) / sigma;
        let mut x = x + derivative * (down - sigma);
        if up > 0.0 {
            x = x.clone() + noise_like(&x, noise)? * (up * self.s_noise);
        }
        Ok(Advance { x, denoised })
    }
}

/// `(σ_down, σ_up)` of an ancestral step from `sigma` to `next` with the share `eta` of its noise.
pub(crate) fn ancestral(sigma: f64, next: f64, eta: f64) -> (f64, f64) {
    let (sigma2, next2) = (sigma * sigma, next * next);
    let up = (eta * (next2 * (sigma2 - next2) / sigma2).max(0.0).sqrt()).min(next);
    ((next2 - up * up).max(0.0).sqrt(), up)
}

/// An error when the settings of ancestral noise are out of range.
pub(crate) fn check_ancestral(eta: f64, s_noise: f64) -> Result<()> {
    check_share("eta", eta)?;
    crate::euler::check_churn(0.0, 0.0, 0.0, s_noise)
}

/// An error unless `value` is in `0 ..= 1`.
pub(crate) fn check_share(name: &'static str, value: f64) -> Result<()> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(sd_core::Error::invalid(name, value, "expected 0 to 1"))
}
