use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, Stage};
use serde::{Deserialize, Serialize};

use crate::clip::Clip;
use crate::levels::Levels;
use crate::walk::{Advance, Place, Solver, Walk};

/// Heun's method on the probability-flow ODE (algorithm 1 of Karras et al. 2022,
/// arXiv:2206.00364): an Euler step, then the mean of the slopes at both its ends. Second order,
/// two model calls a step but for the last one to σ = 0.
///
/// Its default settings are those of diffusers' `HeunDiscreteScheduler`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Heun {
    /// Which noise levels a run visits.
    pub levels: Levels,
    /// What is done to the predicted x₀.
    pub clip: Clip,
}

impl Scheduler for Heun {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        self.clip.check()?;
        let rungs = self.levels.rungs(train, steps)?;
        Ok(rungs.exploding(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        Walk::start(plan, first, self.clone())
    }
}

impl Solver for Heun {
    const NAME: &'static str = "Heun";

    fn step(
        &mut self,
        at: &Place<'_>,
        x: Tensor<4>,
        model: &mut Model<'_>,
        _noise: &mut dyn Noise,
    ) -> Result<Advance> {
        step(at.stage(), x, model, |denoised| self.clip.apply(denoised))
    }
}

/// Heun's step along one stage, Euler's if it ends at σ = 0.
pub(crate) fn step(
    Stage { from, to }: Stage,
    x: Tensor<4>,
    model: &mut Model<'_>,
    clip: impl Fn(Tensor<4>) -> Tensor<4>,
) -> Result<Advance> {
    let dt = to.sigma - from.sigma;
    let denoised = clip(model.predict(&x, from)?.denoised);
    let slope = (x.clone() - denoised.clone()) / from.sigma;
    let euler = x.clone() + slope.clone() * dt;
    if to.sigma == 0.0 {
        return Ok(Advance { x: euler, denoised });
    }
    let there = clip(model.predict(&euler, to)?.denoised);
    let slope_there = (euler - there) / to.sigma;
    let x = x + (slope + slope_there) * (0.5 * dt);
    Ok(Advance { x, denoised })
}
