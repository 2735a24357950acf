use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Level, Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler, Stage,
};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::check_steps;
use crate::solver::{
    History, PlannedSampler, Position, Solver, Update, adams_bashforth, check_betas,
};

/// diffusers' `IPNDMScheduler`: the method of [`Ipndm`](crate::Ipndm) for models with a schedule of
/// their own, `σ = sin²(πt/2)` with t from 1 to 0, which they are told as their timestep. Not for
/// Stable Diffusion, whose networks know other timesteps.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IpndmCosine {}

impl IpndmCosine {
    pub(crate) fn from_config(_fields: &Fields<'_>) -> Built {
        Ok(Arc::new(Self {}))
    }
}

impl Scheduler for IpndmCosine {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_betas(train, "IPNDM Cosine")?;
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
        PlannedSampler::start(plan, first, IpndmCosineSampler(History::new(4)))
    }
}

struct IpndmCosineSampler(History);

impl Solver for IpndmCosineSampler {
    const NAME: &'static str = "IpndmCosine";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        _noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (from, to) = (at.stage().from, at.stage().to);
        let prediction = model.predict(&x, from)?;
        self.0.push(prediction.noise);
        let noise = adams_bashforth(&self.0);
        // At the beginning there is nothing but noise.
        let clean = (x - noise.clone() * from.sigma) / from.alpha.max(1e-8);
        let x = clean * to.alpha + noise * to.sigma;
        Ok(Update {
            x,
            denoised: prediction.denoised,
        })
    }

    fn save(&self, state: SavedState) -> SavedState {
        self.0.save(state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.0.restore(state)
    }
}
