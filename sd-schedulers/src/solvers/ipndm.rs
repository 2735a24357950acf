use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::Levels;
use crate::solver::{
    History, PlannedSampler, Position, Solver, Update, adams_bashforth, check_order,
};

/// Improved pseudo numerical method on any σ (Zhang & Chen 2022, arXiv:2204.13902, section 4.1;
/// ComfyUI's `ipndm`): Adams–Bashforth's weights for even steps on the last four slopes `dx/dσ`,
/// whatever the steps are. One model call a step; second order where the steps change smoothly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ipndm {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// Number of slopes, 1 to 4.
    pub order: usize,
    /// Steps that the weights are made for.
    pub weights: IpndmWeights,
    /// Euler's step for the last one, to σ = 0, as in ComfyUI.
    pub euler_at_final: bool,
}

/// The weights of [`Ipndm`]'s slopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpndmWeights {
    /// Even steps.
    #[default]
    Even,
    /// Uneven steps where there are two slopes, even ones where there are more
    /// (stable-diffusion.cpp's `ipndm_v`).
    SecondUneven,
    /// Uneven steps (ComfyUI's and diff-sampler's `ipndm_v`): divided differences as in
    /// Adams–Bashforth's method with variable steps, but with the integrals of the third and fourth
    /// shortened.
    Uneven,
}

impl Default for Ipndm {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            order: 4,
            weights: IpndmWeights::Even,
            euler_at_final: false,
        }
    }
}

impl Ipndm {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        let weights = [
            ("even", IpndmWeights::Even),
            ("second_uneven", IpndmWeights::SecondUneven),
            ("uneven", IpndmWeights::Uneven),
        ];
        Ok(Arc::new(Self {
            levels: fields.levels_with_ends(default.levels)?,
            order: fields.count("order", default.order)?,
            weights: fields.choice("weights", default.weights, &weights)?,
            euler_at_final: fields.flag("euler_at_final", default.euler_at_final)?,
        }))
    }
}

impl Scheduler for Ipndm {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_order("order", self.order, 4)?;
        self.levels.exploding(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let sampler = IpndmSampler {
            slopes: History::new(self.order.clamp(1, 4)),
            settings: self.clone(),
        };
        PlannedSampler::start(plan, first, sampler)
    }
}

struct IpndmSampler {
    settings: Ipndm,
    slopes: History,
}

impl Solver for IpndmSampler {
    const NAME: &'static str = "Ipndm";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        _noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (from, to) = (at.stage().from, at.stage().to);
        let denoised = model.predict(&x, from)?.denoised;
        self.slopes
            .push((x.clone() - denoised.clone()) / from.sigma);
        if self.settings.euler_at_final && to.sigma == 0.0 {
            return Ok(Update::to_clean(denoised));
        }
        let step = to.sigma - from.sigma;
        // The steps before, the latest first.
        let steps: Vec<f64> = (1..self.slopes.len())
            .filter_map(|age| Some(at.before(age - 1)?.from.sigma - at.before(age)?.from.sigma))
            .collect();
        let slope = match (self.settings.weights, steps.len()) {
            (IpndmWeights::Even, _) | (IpndmWeights::SecondUneven, 2..) => {
                adams_bashforth(&self.slopes)
            }
            _ => {
                let weights = uneven(step, &steps);
                let terms = weights.into_iter().enumerate();
                let terms = terms.map(|(age, weight)| self.slopes.get(age) * weight);
                terms
                    .reduce(|a, b| a + b)
                    .unwrap_or_else(|| self.slopes.get(0))
            }
        };
        Ok(Update {
            x: x + slope * step,
            denoised,
        })
    }

    fn save(&self, state: SavedState) -> SavedState {
        self.slopes.save(state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.slopes.restore(state)
    }
}

/// diff-sampler's weights of the newest slope and those before, for a step `h` after `steps`, the
/// latest first.
fn uneven(h: f64, steps: &[f64]) -> Vec<f64> {
    let Some(&h1) = steps.first() else {
        return vec![1.0];
    };
    let mut weights = vec![1.0 + h / h1 / 2.0, -h / h1 / 2.0];
    let Some(&h2) = steps.get(1) else {
        return weights;
    };
    let third = (1.0 - h / (3.0 * (h + h1)) * (h * (h + h1)) / (h1 * (h1 + h2))) / 2.0;
    let ratio = h1 / h2;
    weights[0] += third;
    weights[1] -= (1.0 + ratio) * third;
    weights.push(ratio * third);
    let Some(&h3) = steps.get(2) else {
        return weights;
    };
    let fourth = ((1.0 - h / (3.0 * (h + h1))) / 2.0
        + (1.0 - h / (2.0 * (h + h1))) * h / (6.0 * (h + h1 + h2)))
        * (h * (h + h1) * (h + h1 + h2))
        / (h1 * (h1 + h2) * (h1 + h2 + h3));
    let further = h1 * (h1 + h2) / (h2 * (h2 + h3));
    weights[0] += fourth;
    weights[1] -= (1.0 + ratio + further) * fourth;
    weights[2] += (ratio + further * (1.0 + h2 / h3)) * fourth;
    weights.push(-further * ratio * fourth);
    weights
}
