use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Error, Model, Noise, NoiseSchedule, Plan, Result, Sampler, SamplerState, Scheduler};
use serde::{Deserialize, Serialize};

use crate::cfg_pp::both;
use crate::history::History;
use crate::levels::Levels;
use crate::walk::{Advance, Place, Solver, Walk};

/// Gradient estimation (Permenter & Yuan 2023, arXiv:2306.04848, algorithm 2): Euler's step along
/// `γ ε_t + (1 − γ) ε_{t+1}`, of which the second is the step before's. One model call a step; first
/// order, but for γ = 3/2 on evenly spaced σ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GradientEstimation {
    /// Which noise levels a run visits.
    pub levels: Levels,
    /// γ: 1 is Euler's method, 2 what the authors found best.
    pub gamma: f64,
    /// Whether the slopes are the unconditional branch's (ComfyUI's `gradient_estimation_cfg_pp`).
    pub cfg_pp: bool,
}

impl Default for GradientEstimation {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            gamma: 2.0,
            cfg_pp: false,
        }
    }
}

impl Scheduler for GradientEstimation {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        if !(0.0..=10.0).contains(&self.gamma) {
            return Err(Error::invalid("gamma", self.gamma, "expected 0 to 10"));
        }
        let rungs = self.levels.rungs(train, steps)?;
        Ok(rungs.exploding(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let run = Run {
            settings: self.clone(),
            slopes: History::new(2),
        };
        Walk::start(plan, first, run)
    }
}

struct Run {
    settings: GradientEstimation,
    slopes: History,
}

impl Solver for Run {
    const NAME: &'static str = "GradientEstimation";

    fn step(
        &mut self,
        at: &Place<'_>,
        x: Tensor<4>,
        model: &mut Model<'_>,
        _noise: &mut dyn Noise,
    ) -> Result<Advance> {
        let (from, to) = (at.stage().from, at.stage().to);
        let (denoised, uncond) = both(model.predict(&x, from)?);
        let x0 = match self.settings.cfg_pp {
            true => uncond,
            false => denoised.clone(),
        };
        let slope = (x - x0) / from.sigma;
        self.slopes.push(slope.clone());
        if to.sigma == 0.0 {
            return Ok(Advance {
                x: denoised.clone(),
                denoised,
            });
        }
        let mut x = denoised.clone() + slope.clone() * to.sigma;
        if self.slopes.len() > 1 {
            let change = (slope - self.slopes.get(1)) * (self.settings.gamma - 1.0);
            x = x + change * (to.sigma - from.sigma);
        }
        Ok(Advance { x, denoised })
    }

    fn save(&self, state: SamplerState) -> SamplerState {
        self.slopes.save(state)
    }

    fn restore(&mut self, state: &SamplerState) -> Result<()> {
        self.slopes.restore(state)
    }
}
