use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::Tensor;

use crate::{Level, Model, Noise, NoiseSchedule, Plan, Result, SavedState};

/// Settings of a solver: which noise levels it visits, and how it steps between them.
///
/// A scheduler holds settings only. Everything one generation changes is in the [`Sampler`] that
/// [`start`](Self::start) makes, so one scheduler serves any number of generations at once and
/// none can leave a trace in another.
pub trait Scheduler: Debug + Send + Sync {
    /// The run's levels for a model trained on `train`, in about `steps` steps.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) when `steps` is 0 or more than
    /// the schedule has levels, or the settings exclude each other.
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan>;

    /// The levels of a run that begins with a picture and takes the share `strength` of its `steps`
    /// steps, and the stage it begins with: of [`plan`](Self::plan) what
    /// [`Plan::first_stage`] says, for nearly every solver.
    ///
    /// # Errors
    /// Those of both.
    fn plan_from_picture(
        &self,
        train: &Arc<NoiseSchedule>,
        steps: usize,
        strength: f64,
    ) -> Result<(Plan, usize)> {
        let plan = self.plan(train, steps)?;
        let first = plan.first_stage(steps, strength)?;
        Ok((plan, first))
    }

    /// Begins a run along `plan` at stage `first`: 0 for a whole run, more for image-to-image,
    /// whose latent then already has the level `plan.stages[first].from`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) when the plan has no such stage.
    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>>;

    /// Timestep of the second evaluation in stage `stage` of `plan`, for a solver that evaluates
    /// twice and whose timesteps diffusers lists so (`order = 2` there): a run that is handed over
    /// to another model may be cut between the two. `None` for every other solver, and where a stage
    /// takes one evaluation.
    fn second_timestep(&self, plan: &Plan, stage: usize) -> Option<f64> {
        let _ = (plan, stage);
        None
    }

    /// `true` for a solver whose steps follow from the picture: each image of a run is then stepped
    /// by itself, with a sampler of its own, so that it is what its seed draws alone.
    fn steps_each_image(&self) -> bool {
        false
    }
}

/// One run of a solver. Its history lives here and ends with it.
pub trait Sampler: Send {
    /// Takes the next step: `x` is the latent `[n, c, h, w]` in f32 that the previous step
    /// returned, or the initial one.
    ///
    /// A step may evaluate the model more than once (Heun) and may draw noise (ancestral
    /// solvers). Not to be called after one that was [`done`](Step::done).
    ///
    /// # Errors
    /// Those of the model and of the noise.
    fn step(&mut self, x: Tensor<4>, model: &mut dyn Model, noise: &mut dyn Noise) -> Result<Step>;

    /// All that a later [`restore`](Self::restore) needs to continue from here. Its tensors have the
    /// latent's shape.
    fn save(&self) -> SavedState;

    /// Puts a sampler just made by the same scheduler with the same plan where `state` was saved.
    ///
    /// # Errors
    /// [`Error::SavedState`](crate::Error::SavedState) when `state` is of another solver.
    fn restore(&mut self, state: &SavedState) -> Result<()>;
}

/// Result of a [`Sampler`]'s step.
#[derive(Debug, Clone)]
pub struct Step {
    /// The latent for the next step, `[n, c, h, w]`.
    pub x: Tensor<4>,
    /// The level of `x`.
    pub level: Level,
    /// The clean latent the model saw in the latent before: a preview of the result at any step.
    pub denoised: Tensor<4>,
    /// Share of the run that is done, in `0.0 ..= 1.0`.
    pub progress: f64,
    /// `true` after the last step; a solver that chooses its own steps says so itself.
    pub done: bool,
}
