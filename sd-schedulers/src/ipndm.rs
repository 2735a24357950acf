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
}

impl Default for Ipndm {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            order: 4,
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
        Walk::start(plan, first, Slopes(History::new(self.order.clamp(1, 4))))
    }
}

struct Slopes(History);

impl Solver for Slopes {
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
        self.0.push((x.clone() - denoised.clone()) / from.sigma);
        let x = x + adams_bashforth(&self.0) * (to.sigma - from.sigma);
        Ok(Advance { x, denoised })
    }

    fn save(&self, state: SamplerState) -> SamplerState {
        self.0.save(state)
    }

    fn restore(&mut self, state: &SamplerState) -> Result<()> {
        self.0.restore(state)
    }
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
