use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Error, Level, Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler, Stage,
};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::{Spacing, between_timesteps, level_or_end};
use crate::solver::{
    History, PlannedSampler, Position, Solver, Update, adams_bashforth, check_betas,
};

/// Pseudo numerical methods (Liu et al. 2022, arXiv:2202.09778): Adams–Bashforth of order 4 on the
/// network's outputs, with DDIM's transfer (their equation 11) in place of Euler's step. Begun
/// either by three Runge–Kutta steps of four model calls (PRK), or, with `skip_prk_steps`, by a
/// step that is done twice and lower orders after it (PLMS, Stable Diffusion's first sampler).
///
/// Its default settings are those of diffusers' `PNDMScheduler`; Stable Diffusion wants
/// `skip_prk_steps: true, steps_offset: 1`. With PLMS a plan has a stage more than steps, the
/// second call of the first one. Started there or later (image-to-image), a run begins with a
/// plain step and the stage after it does the correction, as in diffusers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pndm {
    /// Spread of the timesteps.
    pub spacing: Spacing,
    /// Offset of every timestep of [`Spacing::Leading`]; 1 for Stable Diffusion.
    pub steps_offset: usize,
    /// End of the last step without noise (`ᾱ = 1`), not at the level of timestep 0.
    pub set_alpha_to_one: bool,
    /// Beginning without Runge–Kutta steps.
    pub skip_prk_steps: bool,
    /// End of the run at the last of its timesteps, 1: the steps are those between them, one fewer
    /// than asked for (A1111's PLMS). The spacing counts as leading with an offset of 1;
    /// begun in the middle, a run does its first step twice as well.
    pub ends_at_last_timestep: bool,
}

impl Default for Pndm {
    fn default() -> Self {
        Self {
            spacing: Spacing::Leading,
            steps_offset: 0,
            set_alpha_to_one: false,
            skip_prk_steps: false,
            ends_at_last_timestep: false,
        }
    }
}

impl Pndm {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            spacing: fields.spacing(default.spacing)?,
            steps_offset: fields.count("steps_offset", default.steps_offset)?,
            set_alpha_to_one: fields.flag("set_alpha_to_one", default.set_alpha_to_one)?,
            skip_prk_steps: fields.flag("skip_prk_steps", default.skip_prk_steps)?,
            ends_at_last_timestep: fields
                .flag("ends_at_last_timestep", default.ends_at_last_timestep)?,
        }))
    }
}

impl Scheduler for Pndm {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_betas(train, "PNDM")?;
        if self.ends_at_last_timestep {
            return between_timesteps(train, steps);
        }
        let mut timesteps = (self.spacing).timesteps(train.len(), steps, self.steps_offset)?;
        if self.skip_prk_steps && steps > 1 {
            timesteps.insert(1, timesteps[1]);
        }
        if !self.skip_prk_steps && steps < 4 {
            let expected = "PNDM with Runge–Kutta steps needs at least 4; set skip_prk_steps";
            return Err(Error::invalid("steps", steps, expected));
        }
        let jump = (train.len() / steps) as f64;
        let stage = |(i, t): (usize, f64)| {
            let t = t.round_ties_even();
            let jump = if self.skip_prk_steps && i == 1 {
                0.0
            } else {
                jump
            };
            Stage {
                from: train.level(t as usize),
                to: level_or_end(train, t - jump, self.set_alpha_to_one),
            }
        };
        let mut stages: Vec<Stage> = timesteps.into_iter().enumerate().map(stage).collect();
        if !self.skip_prk_steps {
            // A Runge–Kutta step ends where the next one begins.
            for i in 0..3 {
                stages[i].to = stages[i + 1].from;
            }
        }
        Ok(Plan {
            schedule: train.clone(),
            init_noise_sigma: 1.0,
            stages,
        })
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let calls = plan.stages.len();
        let steps = calls - usize::from(self.skip_prk_steps && calls > 2);
        let sampler = PndmSampler {
            settings: self.clone(),
            train: plan.schedule.clone(),
            jump: (plan.schedule.len() / steps.max(1)) as f64,
            done: 0,
            outputs: History::new(4),
            first_latent: None,
        };
        PlannedSampler::start(plan, first, sampler)
    }
}

struct PndmSampler {
    settings: Pndm,
    train: Arc<NoiseSchedule>,
    /// Timesteps between two steps, whatever the spacing.
    jump: f64,
    /// Stages done in this run.
    done: usize,
    outputs: History,
    /// The latent that PLMS' first step, done twice, began with.
    first_latent: Option<Tensor<4>>,
}

impl Solver for PndmSampler {
    const NAME: &'static str = "Pndm";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        _noise: &mut dyn Noise,
    ) -> Result<Update> {
        let advance = if self.settings.ends_at_last_timestep {
            self.between(at, x, model)?
        } else if self.settings.skip_prk_steps || self.done >= 3 {
            self.multistep(at, x, model)?
        } else {
            self.runge_kutta(at, x, model)?
        };
        self.done += 1;
        Ok(advance)
    }

    fn save(&self, state: SavedState) -> SavedState {
        let state = state.with_number("done", self.done as f64);
        let state = self.outputs.save(state);
        match &self.first_latent {
            Some(x) => state.with_tensor("first_latent", x.clone()),
            None => state,
        }
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        let done = state.number("done");
        let done = done.ok_or_else(|| Error::SavedState("it lacks the number 'done'".into()))?;
        self.done = done as usize;
        self.first_latent = state.tensor("first_latent");
        self.outputs.restore(state)
    }
}

impl PndmSampler {
    /// Equation 12: Adams–Bashforth of the highest order that the outputs so far allow.
    fn multistep(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
    ) -> Result<Update> {
        let level = at.stage().from;
        let prediction = model.predict(&x, level)?;
        let denoised = prediction.denoised;
        if self.done == 1
            && let Some(first) = self.first_latent.take()
        {
            // The first step once more, with the mean of the outputs at both its ends.
            let mean = (prediction.raw + self.outputs.get(0)) / 2.0;
            let from = self.train.level((level.t + self.jump) as usize);
            let x = transfer(model, first, from, level, mean);
            return Ok(Update { x, denoised });
        }
        if self.done == 0 {
            self.first_latent = Some(x.clone());
        }
        self.outputs.push(prediction.raw);
        let combined = adams_bashforth(&self.outputs);
        let to = level_or_end(
            &self.train,
            level.t - self.jump,
            self.settings.set_alpha_to_one,
        );
        let x = transfer(model, x, level, to, combined);
        Ok(Update { x, denoised })
    }

    /// A1111's steps: Adams–Bashforth along each stage, the first with the mean of the outputs at
    /// both its ends.
    fn between(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
    ) -> Result<Update> {
        let Stage { from, to } = at.stage();
        let first = model.predict(&x, from)?;
        self.outputs.push(first.raw.clone());
        let combined = match self.outputs.len() {
            1 => {
                let there = transfer(model, x.clone(), from, to, first.raw.clone());
                (first.raw + model.predict(&there, to)?.raw) / 2.0
            }
            _ => adams_bashforth(&self.outputs),
        };
        let x = transfer(model, x, from, to, combined);
        Ok(Update {
            x,
            denoised: first.denoised,
        })
    }

    /// Equation 13: the classical Runge–Kutta method of order 4.
    fn runge_kutta(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
    ) -> Result<Update> {
        let Stage { from, to } = at.stage();
        let half = (self.jump / 2.0).floor();
        // diffusers steps to the middle from above and evaluates in the middle from below; the two
        // differ where the distance is odd or uneven.
        let middle = self.train.level((to.t + half) as usize);
        let above = level_or_end(&self.train, from.t - half, self.settings.set_alpha_to_one);
        let first = model.predict(&x, from)?;
        let e1 = first.raw;
        let x1 = transfer(model, x.clone(), from, above, e1.clone());
        let e2 = model.predict(&x1, middle)?.raw;
        let x2 = transfer(model, x.clone(), from, middle, e2.clone());
        let e3 = model.predict(&x2, middle)?.raw;
        let x3 = transfer(model, x.clone(), from, to, e3.clone());
        let e4 = model.predict(&x3, to)?.raw;
        let combined = e1.clone() / 6.0 + e2 / 3.0 + e3 / 3.0 + e4 / 6.0;
        self.outputs.push(e1);
        let x = transfer(model, x, from, to, combined);
        Ok(Update {
            x,
            denoised: first.denoised,
        })
    }
}

/// Equation 11, DDIM's step from `from` to `to` along the network output `raw`.
fn transfer(model: &dyn Model, x: Tensor<4>, from: Level, to: Level, raw: Tensor<4>) -> Tensor<4> {
    let read = model.read(&x, from, raw);
    read.denoised * to.alpha + read.noise * to.sigma
}
