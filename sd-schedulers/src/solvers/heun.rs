use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::Levels;
use crate::solver::{PlannedSampler, Position, Solver, Thresholding, Update, heun_step};

/// Heun's method on the probability-flow ODE (algorithm 1 of Karras et al. 2022,
/// arXiv:2206.00364): an Euler step, then the mean of the slopes at both its ends. Second order,
/// two model calls a step but for the last one to σ = 0.
///
/// Its default settings are those of diffusers' `HeunDiscreteScheduler`, and for a model of a flow
/// those of its `FlowMatchHeunDiscreteScheduler`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Heun {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// Thresholding of the predicted x₀.
    pub thresholding: Thresholding,
}

impl Heun {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            levels: fields.levels(default.levels)?,
            thresholding: fields.clip_sample(default.thresholding)?,
        }))
    }
}

impl Scheduler for Heun {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        self.thresholding.check()?;
        self.levels.exploding(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        PlannedSampler::start(plan, first, self.clone())
    }

    fn second_timestep(&self, plan: &Plan, stage: usize) -> Option<f64> {
        let to = plan.stages.get(stage)?.to;
        (to.sigma > 0.0).then_some(to.t)
    }
}

impl Solver for Heun {
    const NAME: &'static str = "Heun";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        _noise: &mut dyn Noise,
    ) -> Result<Update> {
        heun_step(at.stage(), x, model, |x0| self.thresholding.apply(x0))
    }
}
