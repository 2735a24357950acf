use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Level, Model, Noise, NoiseSchedule, Plan, Result, Sampler, SamplerState, Scheduler, Stage,
};
use serde::{Deserialize, Serialize};

use crate::dpm_multistep::check_order;
use crate::history::History;
use crate::levels::Levels;
use crate::pndm::adams_bashforth;
use crate::spacing::check_steps;
use crate::walk::{Advance, Place, Solver, Walk};

/// Improved pseudo numerical method on any σ (Zhang & Chen 2022, arXiv:2204.13902, section 4.1;
/// ComfyUI's `ipndm`): Adams–Bashforth's weights for even steps on the last four slopes `dx/dσ`,
/// whatever the steps are. One model call a step; second order where the steps change smoothly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ipndm {
    /// Which noise levels a run visits.
    pub levels: Levels,
    /// Number of slopes, 1 to 4.
    pub order: usize,
    /// What the weights are made for.
    pub weights: IpndmWeights,
    /// Whether the last step, to σ = 0, is Euler's, as in ComfyUI.
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

impl Scheduler for Ipndm {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_order("order", self.order, 4)?;
        let rungs = self.levels.rungs(train, steps)?;
        Ok(rungs.exploding(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let run = Run {
            slopes: History::new(self.order.clamp(1, 4)),
            settings: self.clone(),
        };
        Walk::start(plan, first, run)
    }
}

struct Run {
    settings: Ipndm,
    slopes: History,
}

impl Solver for Run {
    const NAME: &'static str = "Ipndm";

    fn step(
        &mut self,
        at: &Place<'_>,
        x: Tensor<4>,
        model: &mut Model<'_>,
        _noise: &mut dyn Noise,
    ) -> Result<Advance> {
        let (from, to) = (at.stage().from, at.stage().to);
        let denoised = model.predict(&x, from)?.denoised;
        self.slopes
            .push((x.clone() - denoised.clone()) / from.sigma);
        if self.settings.euler_at_final && to.sigma == 0.0 {
            return Ok(Advance {
                x: denoised.clone(),
                denoised,
            });
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
        Ok(Advance {
            x: x + slope * step,
            denoised,
        })
    }

    fn save(&self, state: SamplerState) -> SamplerState {
        self.slopes.save(state)
    }

    fn restore(&mut self, state: &SamplerState) -> Result<()> {
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

/// diffusers' `IPNDMScheduler`: the same method for models with a schedule of their own,
/// `σ = sin²(πt/2)` with t from 1 to 0, which they are told as their timestep. Not for Stable
/// Diffusion, whose networks know other timesteps: see [`Ipndm`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IpndmCosine {}

impl Scheduler for IpndmCosine {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_steps(steps, train.len())?;
        let level = |i: usize| {
            let half_turn = (1.0 - i as f64 / steps as f64) * std::f64::consts::FRAC_PI_2;
            let sigma = half_turn.sin().powi(2);
            let alpha = (1.0 - sigma * sigma).max(0.0).sqrt();
            let t = sigma.atan2(alpha) / std::f64::consts::FRAC_PI_2;
            Level { t, alpha, sigma }
        };
        let stage = |i| Stage {
            from: level(i),
            to: level(i + 1),
        };
        Ok(Plan {
            schedule: train.clone(),
            init_noise_sigma: 1.0,
            stages: (0..steps).map(stage).collect(),
        })
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        Walk::start(plan, first, Noises(History::new(4)))
    }
}

struct Noises(History);

impl Solver for Noises {
    const NAME: &'static str = "IpndmCosine";

    fn step(
        &mut self,
        at: &Place<'_>,
        x: Tensor<4>,
        model: &mut Model<'_>,
        _noise: &mut dyn Noise,
    ) -> Result<Advance> {
        let (from, to) = (at.stage().from, at.stage().to);
        let prediction = model.predict(&x, from)?;
        self.0.push(prediction.noise);
        let noise = adams_bashforth(&self.0);
        // At the beginning there is nothing but noise.
        let clean = (x - noise.clone() * from.sigma) / from.alpha.max(1e-8);
        let x = clean * to.alpha + noise * to.sigma;
        Ok(Advance {
            x,
            denoised: prediction.denoised,
        })
    }

    fn save(&self, state: SamplerState) -> SamplerState {
        self.0.save(state)
    }

    fn restore(&mut self, state: &SamplerState) -> Result<()> {
        self.0.restore(state)
    }
}
