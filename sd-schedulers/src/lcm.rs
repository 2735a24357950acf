use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Error, Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, Stage, noise_like,
};
use serde::{Deserialize, Serialize};

use crate::clip::Clip;
use crate::ddim::level_or_end;
use crate::ddpm::own_timesteps;
use crate::euler_ancestral::check_share;
use crate::spacing::{check_steps, linspace};
use crate::walk::{Advance, Place, Solver, Walk};

/// Multistep consistency sampling of latent consistency models (Luo et al. 2023,
/// arXiv:2310.04378, algorithm 3): to x₀ in one step, and back to the next level with new noise.
/// One model call a step; 1 to 8 steps.
///
/// Its default settings are those of diffusers' `LCMScheduler`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lcm {
    /// Number of timesteps the model was distilled on; a run takes some of them.
    pub original_steps: usize,
    /// Factor on the timestep in the boundary condition that holds x₀ to the latent at t → 0.
    pub timestep_scaling: f64,
    /// What is done to the predicted x₀.
    pub clip: Clip,
    /// Share of the distilled timesteps that a run is spread over, from the least noisy: how LCM's
    /// own image-to-image pipeline begins in the middle, with all its steps still to do.
    pub strength: f64,
    /// Timesteps of one's own, falling, in place of the distilled ones; as many as steps.
    pub timesteps: Option<Vec<usize>>,
}

impl Default for Lcm {
    fn default() -> Self {
        Self {
            original_steps: 50,
            timestep_scaling: 10.0,
            clip: Clip::Off,
            strength: 1.0,
            timesteps: None,
        }
    }
}

impl Scheduler for Lcm {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        self.clip.check()?;
        if !self.timestep_scaling.is_finite() {
            let expected = "expected a number";
            return Err(Error::invalid(
                "timestep_scaling",
                self.timestep_scaling,
                expected,
            ));
        }
        let timesteps = match &self.timesteps {
            Some(own) => own_timesteps(own, train.len(), steps)?.collect(),
            None => distilled_timesteps(train.len(), self.original_steps, self.strength, steps)?,
        };
        let stage = |i: usize| Stage {
            from: train.level(timesteps[i]),
            to: match timesteps.get(i + 1) {
                Some(&t) => train.level(t),
                None => level_or_end(train, -1.0, true),
            },
        };
        Ok(Plan {
            schedule: train.clone(),
            init_noise_sigma: 1.0,
            stages: (0..steps).map(stage).collect(),
        })
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        Walk::start(plan, first, self.clone())
    }
}

/// `steps` of the share `strength` of the `original` timesteps that a model was distilled on,
/// falling.
pub(crate) fn distilled_timesteps(
    train: usize,
    original: usize,
    strength: f64,
    steps: usize,
) -> Result<Vec<usize>> {
    check_steps(steps, train)?;
    if !(1..=train).contains(&original) {
        let expected = format!("expected 1 to {train}");
        return Err(Error::invalid(
            "original_inference_steps",
            original,
            expected,
        ));
    }
    check_share("strength", strength)?;
    let (distilled, original) = (original, (original as f64 * strength) as usize);
    if steps > original {
        let expected = format!(
            "the model was distilled on {distilled} timesteps, of which the strength leaves {original}"
        );
        return Err(Error::invalid("steps", steps, expected));
    }
    let ratio = train / distilled;
    // One point more than there are steps, the last left out, is numpy's endpoint=False.
    let picks = linspace(0.0, original as f64, steps + 1);
    let picks = picks[..steps].iter().map(|pick| *pick as usize);
    Ok(picks.map(|pick| (original - pick) * ratio - 1).collect())
}

impl Solver for Lcm {
    const NAME: &'static str = "Lcm";

    fn step(
        &mut self,
        at: &Place<'_>,
        x: Tensor<4>,
        model: &mut Model<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Advance> {
        let Stage { from, to } = at.stage();
        let predicted = self.clip.apply(model.predict(&x, from)?.denoised);
        let denoised = bounded(predicted, x, from.t * self.timestep_scaling);
        if at.remaining() == 0 {
            return Ok(Advance {
                x: denoised.clone(),
                denoised,
            });
        }
        let x = denoised.clone() * to.alpha + noise_like(&denoised, noise)? * to.sigma;
        Ok(Advance { x, denoised })
    }
}

/// The boundary condition of a consistency model: x₀ is the latent itself at the scaled timestep 0.
pub(crate) fn bounded(denoised: Tensor<4>, x: Tensor<4>, timestep: f64) -> Tensor<4> {
    const DATA: f64 = 0.5;
    let skip = DATA * DATA / (timestep * timestep + DATA * DATA);
    denoised * (timestep / timestep.hypot(DATA)) + x * skip
}
