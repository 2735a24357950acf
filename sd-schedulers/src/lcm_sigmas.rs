use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Error, Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, noise_like};
use serde::{Deserialize, Serialize};

use crate::euler_ancestral::check_ancestral;
use crate::lcm::bounded;
use crate::levels::{Levels, Rungs};
use crate::spacing::{check_steps, linspace};
use crate::table::SigmaTable;
use crate::walk::{Advance, Place, Solver, Walk};

/// Multistep consistency sampling on any σ (ComfyUI's and stable-diffusion.cpp's `lcm`): to x₀ in
/// one step, and back to the next σ with new noise, without the boundary condition of
/// [`Lcm`](crate::Lcm). One model call a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LcmSigmas {
    /// Which noise levels a run visits.
    pub levels: Levels,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
    /// Whether a run is spread evenly over the 50 timesteps of distillation, whatever its levels
    /// say, and [`Lcm`](crate::Lcm)'s boundary condition holds (A1111).
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

impl Scheduler for LcmSigmas {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_ancestral(1.0, self.s_noise)?;
        let rungs = match self.distilled {
            true => distilled(train, steps)?,
            false => self.levels.rungs(train, steps)?,
        };
        Ok(rungs.exploding(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        Walk::start(plan, first, self.clone())
    }
}

/// Even steps over the last of each twenty timesteps, σ between two of them interpolated in ln σ; the
/// network is told of the nearest.
fn distilled(train: &NoiseSchedule, steps: usize) -> Result<Rungs> {
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
    Ok(Rungs {
        sigmas: places.iter().map(sigma).chain([0.0]).collect(),
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
        at: &Place<'_>,
        x: Tensor<4>,
        model: &mut Model<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Advance> {
        let to = at.stage().to.sigma;
        let denoised = model.predict(&x, at.stage().from)?.denoised;
        let denoised = match self.distilled {
            true => bounded(denoised, x, at.stage().from.t * 10.0),
            false => denoised,
        };
        let mut x = denoised.clone();
        if to > 0.0 {
            x = x + noise_like(&denoised, noise)? * (to * self.s_noise);
        }
        Ok(Advance { x, denoised })
    }
}
