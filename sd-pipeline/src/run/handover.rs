//! Hand-over from one model to another in the middle of the noise schedule, by diffusers' rule
//! (`denoising_end` and `denoising_start` of its SDXL pipelines).

use burn::tensor::Tensor;
use sd_core::{Error, Level, Model, Noise, Parameterization, Plan, Prediction, Result, Scheduler};

use super::Run;

/// Latents of a run that another model goes on with.
///
/// A base model draws the first part of the noise schedule, SDXL's refiner the rest (Podell et al.
/// 2023, arXiv:2307.01952, section 2.5). No noise is added in between.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Handover {
    /// The latents `[count, c, h, w]`, f32, in the scale of `level`.
    #[cfg_attr(feature = "serde", serde(with = "crate::serde_values::tensor"))]
    pub latents: Tensor<4>,
    /// Their level.
    pub level: Level,
    /// Share of the noise schedule that is behind them, between 0 and 1.
    pub at: f64,
    /// The initial noise of their run, of the latents' shape, for layers that need it (masks); none
    /// counts as zeros.
    #[cfg_attr(
        feature = "serde",
        serde(with = "crate::serde_values::optional_tensor")
    )]
    pub noise: Option<Tensor<4>>,
    /// Draws of noise taken so far: the seeds' noise goes on behind them.
    pub draws: u64,
}

impl Handover {
    /// Latents at `level` with the share `at` of the noise schedule behind them.
    pub fn new(latents: Tensor<4>, level: Level, at: f64) -> Self {
        Self {
            latents,
            level,
            at,
            noise: None,
            draws: 0,
        }
    }

    /// The latents in the scale of `level`: those of solvers in which noise comes on top of the
    /// picture (α = 1), or in which it takes the picture's place (α² + σ² = 1). Within a scale they
    /// are passed on as they are.
    pub(super) fn in_scale_of(&self, level: Level) -> Tensor<4> {
        let share = |level: Level| (level.alpha * level.alpha + level.sigma * level.sigma).sqrt();
        let explodes = |level: Level| level.alpha == 1.0;
        match explodes(self.level) == explodes(level) {
            true => self.latents.clone(),
            false => self.latents.clone() * (share(level) / share(self.level)),
        }
    }
}

impl Run {
    /// The latents that another model goes on with, in a run that
    /// [ends before the last step](crate::Request::end).
    ///
    /// # Errors
    /// [`Unsupported`](sd_core::Error::Unsupported) of a run that does not, or is not at its end.
    pub fn hand_over(&self) -> crate::Result<Handover> {
        let cut = self.settings.cut.is_some();
        match self.end.filter(|_| cut && self.is_finished()) {
            Some(at) => Ok(Handover {
                noise: Some(self.settings.noise.clone()),
                draws: self.noise.draws(),
                ..Handover::new(self.x.clone(), self.level, at)
            }),
            None => {
                let what = "a run is handed over at its end, which `Request::end` says";
                Err(Error::Unsupported(what.into()).into())
            }
        }
    }
}

/// Place in a plan at which one model ends and the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// The next model's first stage.
    pub(super) stage: usize,
    /// `true` when the first model takes this stage's first half, up to its second evaluation. The
    /// next takes the whole of it all the same: that is diffusers' rule for solvers of second order.
    pub(super) halves: bool,
}

impl Cut {
    /// The cut of `plan` behind the share `at` of the noise schedule: before the first evaluation
    /// at a timestep below `T − at·T`, rounded as Python does.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a share that is not between 0 and 1, under the name `name`;
    /// for a solver that chooses its own steps, of which nobody knows where they lie.
    pub(super) fn at(
        name: &'static str,
        at: f64,
        plan: &Plan,
        scheduler: &dyn Scheduler,
    ) -> Result<Self> {
        if !(at > 0.0 && at < 1.0) {
            let expected = "expected a number above 0 and below 1";
            return Err(Error::invalid(name, at, expected));
        }
        if scheduler.steps_each_image() {
            let expected = "expected none: this scheduler chooses its own steps";
            return Err(Error::invalid(name, at, expected));
        }
        let timesteps = plan.schedule.len() as f64;
        let cutoff = (timesteps - at * timesteps).round_ties_even();
        for (k, stage) in plan.stages.iter().enumerate() {
            let second = scheduler.second_timestep(plan, k);
            let halves = second.is_some_and(|t| t < cutoff) && stage.from.t >= cutoff;
            if halves || stage.from.t < cutoff {
                return Ok(Self { stage: k, halves });
            }
        }
        Ok(Self {
            stage: plan.stages.len(),
            halves: false,
        })
    }

    /// Number of stages that the first model takes, a half one included.
    pub(super) fn end(&self) -> usize {
        self.stage + usize::from(self.halves)
    }
}

/// Model that answers once and takes the second question as the result: the latent that a solver
/// of second order reaches in the middle of its step.
pub(super) struct FirstHalf<M> {
    model: M,
    answer: Option<Tensor<4>>,
    reached: Option<(Tensor<4>, Level)>,
}

impl<M: Model> FirstHalf<M> {
    pub(super) fn new(model: M) -> Self {
        Self {
            model,
            answer: None,
            reached: None,
        }
    }

    /// The latent of the second question with its level, and x₀ as the answer to the first was.
    pub(super) fn reached(self) -> Option<(Tensor<4>, Level, Tensor<4>)> {
        let (x, level) = self.reached?;
        Some((x, level, self.answer?))
    }
}

impl<M: Model> Model for FirstHalf<M> {
    fn parameterization(&self) -> Parameterization {
        self.model.parameterization()
    }

    fn predict(&mut self, x: &Tensor<4>, level: Level) -> Result<Prediction> {
        if self.answer.is_some() {
            self.reached = Some((x.clone(), level));
            // Ends the step; nobody sees it.
            return Err(Error::Cancelled);
        }
        let prediction = self.model.predict(x, level)?;
        self.answer = Some(prediction.denoised.clone());
        Ok(prediction)
    }

    fn read(&self, x: &Tensor<4>, level: Level, raw: Tensor<4>) -> Prediction {
        self.model.read(x, level, raw)
    }

    fn evaluations(&self) -> usize {
        self.model.evaluations()
    }
}
