use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Error, Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, noise_like};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::{Levels, SigmaTable, Sigmas, check_steps, linspace};
use crate::solver::{
    PlannedSampler, Position, Solver, Update, bounded, check_ancestral, check_scale,
};

/// Multistep consistency sampling on any σ (ComfyUI's and stable-diffusion.cpp's `lcm`): to x₀ in
/// one step, and back to the next σ with new noise, without the boundary condition of
/// [`Lcm`](crate::Lcm). One model call a step. Along a flow it is the `stochastic_sampling` of
/// diffusers' `FlowMatchEulerDiscreteScheduler`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LcmSigmas {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
    /// Even spread of a run over the 50 timesteps of distillation, whatever its levels say, with
    /// [`Lcm`](crate::Lcm)'s boundary condition (A1111).
    pub distilled: bool,
}

impl Default for LcmSigmas {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            s_noise: 1.0,
            distilled: false,
        }
    }
}

impl LcmSigmas {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            levels: fields.levels_with_ends(default.levels)?,
            s_noise: fields.number("s_noise", default.s_noise)?,
            distilled: fields.flag("distilled", default.distilled)?,
        }))
    }
}

impl Scheduler for LcmSigmas {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_ancestral(1.0, self.s_noise)?;
        check_scale(
            train,
            self.distilled,
            "LCM with A1111's distilled timesteps",
            "distilled false",
        )?;
        let sigmas = match self.distilled {
            true => distilled(train, steps)?,
            false => self.levels.resolve(train, steps)?,
        };
        Ok(sigmas.exploding(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        PlannedSampler::start(plan, first, self.clone())
    }
}

/// Even steps over the last of each twenty timesteps, σ between two of them interpolated in ln σ; the
/// network is told of the nearest.
fn distilled(train: &NoiseSchedule, steps: usize) -> Result<Sigmas> {
    const ORIGINAL: usize = 50;
    let table = SigmaTable::new(train);
    check_steps(steps, table.len())?;
    let skip = table.len() / ORIGINAL;
    if skip == 0 {
        let expected = "expected at least 50, those of distillation";
        return Err(Error::invalid("num_train_timesteps", table.len(), expected));
    }
    let timestep = |i: usize| (i + 1) * skip - 1;
    let sigma = |place: &f64| {
        let low = (*place as usize).min(ORIGINAL - 2);
        let share = place - low as f64;
        let [a, b] = [low, low + 1].map(|i| table.sigmas()[timestep(i)].ln());
        (a * (1.0 - share) + b * share).exp()
    };
    let places = linspace((ORIGINAL - 1) as f64, 0.0, steps);
    Ok(Sigmas {
        values: places.iter().map(sigma).chain([0.0]).collect(),
        timesteps: places
            .iter()
            .map(|place| timestep(place.round_ties_even() as usize) as f64)
            .collect(),
    })
}

impl Solver for LcmSigmas {
    const NAME: &'static str = "LcmSigmas";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let to = at.stage().to;
        let denoised = model.predict(&x, at.stage().from)?.denoised;
        let denoised = match self.distilled {
            true => bounded(denoised, x, at.stage().from.t * 10.0),
            false => denoised,
        };
        if to.sigma == 0.0 {
            return Ok(Update::to_clean(denoised));
        }
        let added = noise_like(&denoised, noise)? * (to.sigma * self.s_noise);
        let x = denoised.clone() * to.alpha + added;
        Ok(Update { x, denoised })
    }
}
