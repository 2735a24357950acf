use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::Levels;
use crate::solver::{
    History, PlannedSampler, Position, Solver, Update, both, check_scale, check_up_to_ten,
};

/// Gradient estimation (Permenter & Yuan 2023, arXiv:2306.04848, algorithm 2): Euler's step along
/// `γ ε_t + (1 − γ) ε_{t+1}`, of which the second is the step before's. One model call a step; first
/// order, but for γ = 3/2 on evenly spaced σ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GradientEstimation {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// γ: 1 is Euler's method, 2 what the authors found best.
    pub gamma: f64,
    /// CFG++: the slopes are the unconditional branch's (ComfyUI's `gradient_estimation_cfg_pp`).
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

impl GradientEstimation {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            levels: fields.levels_with_ends(default.levels)?,
            gamma: fields.number("gamma", default.gamma)?,
            cfg_pp: fields.flag("cfg_pp", default.cfg_pp)?,
        }))
    }
}

impl Scheduler for GradientEstimation {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_up_to_ten("gamma", self.gamma)?;
        check_scale(
            train,
            self.cfg_pp,
            "Gradient Estimation CFG++",
            "cfg_pp false",
        )?;
        self.levels.exploding(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let sampler = GradientEstimationSampler {
            settings: self.clone(),
            slopes: History::new(2),
        };
        PlannedSampler::start(plan, first, sampler)
    }
}

struct GradientEstimationSampler {
    settings: GradientEstimation,
    slopes: History,
}

impl Solver for GradientEstimationSampler {
    const NAME: &'static str = "GradientEstimation";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        _noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (from, to) = (at.stage().from, at.stage().to);
        let (denoised, uncond) = both(model.predict(&x, from)?);
        let x0 = match self.settings.cfg_pp {
            true => uncond,
            false => denoised.clone(),
        };
        let slope = (x - x0) / from.sigma;
        self.slopes.push(slope.clone());
        if to.sigma == 0.0 {
            return Ok(Update::to_clean(denoised));
        }
        let mut x = denoised.clone() + slope.clone() * to.sigma;
        if self.slopes.len() > 1 {
            let change = (slope - self.slopes.get(1)) * (self.settings.gamma - 1.0);
            x = x + change * (to.sigma - from.sigma);
        }
        Ok(Update { x, denoised })
    }

    fn save(&self, state: SavedState) -> SavedState {
        self.slopes.save(state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.slopes.restore(state)
    }
}
