use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::Tensor;

use crate::{Model, Noise, NoiseSchedule, Plan, Result};

/// A solver's settings: which noise levels it visits, and how it steps between them.
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

    /// Begins a run along `plan` at stage `first`: 0 for a whole run, more for image-to-image,
    /// whose latent then already has the level `plan.stages[first].from`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) when the plan has no such stage.
    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>>;
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
    fn step(&mut self, x: Tensor<4>, model: &mut Model<'_>, noise: &mut dyn Noise) -> Result<Step>;

    /// All that a later [`restore`](Self::restore) needs to continue from here.
    fn save(&self) -> SamplerState;

    /// Puts a sampler just made by the same scheduler with the same plan where `state` was saved.
    ///
    /// # Errors
    /// [`Error::SavedState`](crate::Error::SavedState) when `state` is of another solver.
    fn restore(&mut self, state: &SamplerState) -> Result<()>;
}

/// What a [`Sampler`] made of a latent.
#[derive(Debug, Clone)]
pub struct Step {
    /// The latent for the next step, `[n, c, h, w]`.
    pub x: Tensor<4>,
    /// The clean latent the model saw in `x`: a preview of the result at any step.
    pub denoised: Tensor<4>,
    /// How far the run is, in `0.0 ..= 1.0`.
    pub progress: f64,
    /// Whether this was the last step; a solver that chooses its own steps says so itself.
    pub done: bool,
}

/// A [`Sampler`]'s memory in plain values, so that a run can be written to disk and continued.
#[derive(Debug, Clone, Default)]
pub struct SamplerState {
    /// The stage to do next.
    pub index: usize,
    /// Numbers by name.
    pub numbers: Vec<(String, f64)>,
    /// Tensors by name, `[n, c, h, w]` each: earlier model outputs, for example.
    pub tensors: Vec<(String, Tensor<4>)>,
}

impl SamplerState {
    /// A state whose only content is the stage to do next, for solvers without memory.
    pub fn at(index: usize) -> Self {
        Self {
            index,
            ..Self::default()
        }
    }

    /// Adds a number.
    pub fn with_number(mut self, name: impl Into<String>, value: f64) -> Self {
        self.numbers.push((name.into(), value));
        self
    }

    /// Adds a tensor.
    pub fn with_tensor(mut self, name: impl Into<String>, value: Tensor<4>) -> Self {
        self.tensors.push((name.into(), value));
        self
    }

    /// The number of that name.
    pub fn number(&self, name: &str) -> Option<f64> {
        let found = self.numbers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| *value)
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<4>> {
        let found = self.tensors.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.clone())
    }
}
