use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::{Levels, SigmaTable};
use crate::solver::{
    Brownian, PlannedSampler, Position, Solver, Update, ancestral, check_ancestral,
    check_noise_scale,
};

/// DPM-Solver++ (2S) on the SDE ("DPM++ SDE", k-diffusion's `sample_dpmpp_sde`): algorithm 1 of Lu
/// et al. 2022 (arXiv:2211.01095) with the ratio ½, both halves made ancestral, and the noise of a
/// Brownian path. Two model calls a step but for the last one to σ = 0.
///
/// Its default settings are those of diffusers' `DPMSolverSDEScheduler`. A seed's noise is that of
/// diffusers' `noise_sampler_seed`, but for where the path is asked: there at σ as f32 rounds it, which
/// shows in the second decimal of latents that began at the highest noise in few steps. A picture is
/// the same to the eye.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DpmSolverSde {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// Share of ancestral noise, 0 to 1.
    pub eta: f64,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
}

impl Default for DpmSolverSde {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            eta: 1.0,
            s_noise: 1.0,
        }
    }
}

impl DpmSolverSde {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            levels: fields.levels(default.levels)?,
            eta: fields.number("eta", default.eta)?,
            s_noise: fields.number("s_noise", default.s_noise)?,
        }))
    }
}

impl Scheduler for DpmSolverSde {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_ancestral(self.eta, self.s_noise)?;
        check_noise_scale(train, "DPM++ SDE", self.eta)?;
        self.levels.exploding(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let sampler = DpmSolverSdeSampler {
            settings: self.clone(),
            table: self.levels.table(&plan.schedule),
            path: Brownian::over(plan),
        };
        PlannedSampler::start(plan, first, sampler)
    }

    fn second_timestep(&self, plan: &Plan, stage: usize) -> Option<f64> {
        let stage = plan.stages.get(stage)?;
        let middle = (stage.from.sigma * stage.to.sigma).sqrt();
        (middle > 0.0).then(|| self.levels.table(&plan.schedule).level(middle).t)
    }
}

struct DpmSolverSdeSampler {
    settings: DpmSolverSde,
    table: SigmaTable,
    path: Brownian,
}

impl Solver for DpmSolverSdeSampler {
    const NAME: &'static str = "DpmSolverSde";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (from, to) = (at.stage().from, at.stage().to);
        let sigma = from.sigma;
        let denoised = model.predict(&x, from)?.denoised;
        if to.sigma == 0.0 {
            // Euler's step to the end is x₀ itself.
            return Ok(Update::to_clean(denoised));
        }
        let Self {
            settings,
            table,
            path,
        } = self;
        let mut towards = |next: f64, denoised: Tensor<4>| {
            let (down, up) = ancestral(sigma, next, settings.eta);
            let kept = down / sigma;
            let moved = x.clone() * kept + denoised * (1.0 - kept);
            if up == 0.0 {
                return Ok(moved);
            }
            let z = path.increment(sigma, next, &x, noise)?;
            Ok::<_, sd_core::Error>(moved + z * (up * settings.s_noise))
        };
        let middle = (sigma * to.sigma).sqrt();
        let x_middle = towards(middle, denoised.clone())?;
        let level = table.level(middle);
        let there = model.predict(&x_middle, level)?.denoised;
        let x = towards(to.sigma, there)?;
        Ok(Update { x, denoised })
    }
}
