use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::Levels;
use crate::solver::{History, PlannedSampler, Position, Solver, Update, check_order};

/// Linear multistep (Adams–Bashforth with the actual, uneven σ): the polynomial through the last
/// slopes, integrated over the step. One model call a step.
///
/// Its default settings are those of diffusers' `LMSDiscreteScheduler`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lms {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// Number of slopes, 1 to 4.
    pub order: usize,
    /// First order at the start of a run that begins in the middle (image-to-image), as in
    /// k-diffusion. diffusers weighs the few slopes it has as if the missing ones were there.
    pub lower_order_start: bool,
    /// Euler's step for the last one, to σ = 0, as in ComfyUI.
    pub euler_at_final: bool,
}

impl Default for Lms {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            order: 4,
            lower_order_start: false,
            euler_at_final: false,
        }
    }
}

impl Lms {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            levels: fields.levels(default.levels)?,
            order: fields.count("order", default.order)?,
            lower_order_start: fields.flag("lower_order_start", default.lower_order_start)?,
            euler_at_final: fields.flag("euler_at_final", default.euler_at_final)?,
        }))
    }
}

impl Scheduler for Lms {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_order("order", self.order, 4)?;
        self.levels.exploding(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let sampler = LmsSampler {
            slopes: History::new(self.order.clamp(1, 4)),
            settings: self.clone(),
        };
        PlannedSampler::start(plan, first, sampler)
    }
}

struct LmsSampler {
    settings: Lms,
    slopes: History,
}

impl Solver for LmsSampler {
    const NAME: &'static str = "Lms";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        _noise: &mut dyn Noise,
    ) -> Result<Update> {
        let stage = at.stage();
        let denoised = model.predict(&x, stage.from)?.denoised;
        self.slopes
            .push((x.clone() - denoised.clone()) / stage.from.sigma);
        if self.settings.euler_at_final && stage.to.sigma == 0.0 {
            return Ok(Update::to_clean(denoised));
        }
        let count = match self.settings.lower_order_start {
            true => self.slopes.len(),
            false => self.settings.order.clamp(1, 4),
        };
        let nodes: Vec<f64> = (0..count)
            .filter_map(|age| Some(at.before(age)?.from.sigma))
            .collect();
        let weights = weights(&nodes, stage.to.sigma);
        let held = weights.into_iter().take(self.slopes.len()).enumerate();
        let x = held.fold(x, |x, (age, weight)| x + self.slopes.get(age) * weight);
        Ok(Update { x, denoised })
    }

    fn save(&self, state: SavedState) -> SavedState {
        self.slopes.save(state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.slopes.restore(state)
    }
}

/// The integral from `nodes[0]` to `end` of each of Lagrange's polynomials on up to four `nodes`,
/// by Gauss's rule with two points, which is exact for cubics.
pub(crate) fn weights(nodes: &[f64], end: f64) -> Vec<f64> {
    let half = (end - nodes[0]) / 2.0;
    let points = [-1.0, 1.0].map(|side| nodes[0] + half * (1.0 + side / 3f64.sqrt()));
    let lagrange = |j: usize, s: f64| -> f64 {
        let others = nodes.iter().enumerate().filter(|(k, _)| *k != j);
        others
            .map(|(_, node)| (s - node) / (nodes[j] - node))
            .product()
    };
    let weight = |j| half * points.iter().map(|&s| lagrange(j, s)).sum::<f64>();
    (0..nodes.len()).map(weight).collect()
}
