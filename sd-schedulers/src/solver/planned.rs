use burn::tensor::Tensor;
use sd_core::{Error, Model, Noise, Plan, Result, Sampler, SavedState, Stage, Step};

/// A solver's step formula and its memory; [`PlannedSampler`] does the counting.
pub(crate) trait Solver: Send {
    /// Mark of this solver's saved runs.
    const NAME: &'static str;

    /// From the latent `x` at the beginning of `at.stage()` to its end.
    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update>;

    /// Adds the memory to `state`.
    fn save(&self, state: SavedState) -> SavedState {
        state
    }

    /// Takes the memory out of `state`.
    fn restore(&mut self, _state: &SavedState) -> Result<()> {
        Ok(())
    }
}

/// A solver's answer to a latent.
pub(crate) struct Update {
    /// The latent at the stage's end.
    pub(crate) x: Tensor<4>,
    /// The clean latent seen at its beginning.
    pub(crate) denoised: Tensor<4>,
}

impl Update {
    /// A step to σ = 0 that ends at x₀ itself.
    pub(crate) fn to_clean(denoised: Tensor<4>) -> Self {
        Self {
            x: denoised.clone(),
            denoised,
        }
    }
}

/// Place in its plan that a run has reached.
pub(crate) struct Position<'a> {
    stages: &'a [Stage],
    /// The number of the stage to do, from 0.
    pub(crate) index: usize,
}

impl<'a> Position<'a> {
    /// The stage to do.
    pub(crate) fn stage(&self) -> Stage {
        self.stages[self.index]
    }

    /// The stage `n` before it, if the plan has one.
    pub(crate) fn before(&self, n: usize) -> Option<Stage> {
        Some(self.stages[self.index.checked_sub(n)?])
    }

    /// All of the plan.
    pub(crate) fn stages(&self) -> &'a [Stage] {
        self.stages
    }

    /// Number of stages after this one.
    pub(crate) fn remaining(&self) -> usize {
        self.stages.len() - 1 - self.index
    }
}

/// A run of the solver `S` along a plan.
pub(crate) struct PlannedSampler<S> {
    solver: S,
    stages: Vec<Stage>,
    index: usize,
}

impl<S: Solver + 'static> PlannedSampler<S> {
    /// A run that begins at stage `first`.
    pub(crate) fn start(plan: &Plan, first: usize, solver: S) -> Result<Box<dyn Sampler>> {
        let count = plan.stages.len();
        if first >= count {
            let expected = format!("the plan has the stages 0 to {}", count.saturating_sub(1));
            return Err(Error::invalid("first", first, expected));
        }
        Ok(Box::new(Self {
            solver,
            stages: plan.stages.clone(),
            index: first,
        }))
    }
}

impl<S: Solver> Sampler for PlannedSampler<S> {
    fn step(&mut self, x: Tensor<4>, model: &mut dyn Model, noise: &mut dyn Noise) -> Result<Step> {
        let count = self.stages.len();
        let position = Position {
            stages: &self.stages,
            index: self.index,
        };
        if self.index >= count {
            return Err(Error::invalid(
                "step",
                self.index,
                "the run is already done",
            ));
        }
        let Stage { from, to } = position.stage();
        let [share, _] = model.parameterization().coefficients(from).clean;
        if !share.is_finite() {
            return Err(Error::Unsupported(
                "a latent of pure noise says nothing about x₀ to a model that predicts the noise: \
                 zero terminal SNR needs v_prediction or sample, a flow flow_prediction"
                    .into(),
            ));
        }
        let Update { x, denoised } = self.solver.step(&position, x, model, noise)?;
        self.index += 1;
        Ok(Step {
            x,
            level: to,
            denoised,
            progress: self.index as f64 / count as f64,
            done: self.index == count,
        })
    }

    fn save(&self) -> SavedState {
        let state = SavedState::at(self.index);
        let mark = self.stages.len() as f64;
        self.solver.save(state.with_number(S::NAME, mark))
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        let count = self.stages.len();
        match state.number(S::NAME) {
            None => Err(Error::SavedState(format!("it is not of {}", S::NAME))),
            Some(saved) if saved != count as f64 => Err(Error::SavedState(format!(
                "it is of a plan with {saved} stages, this one has {count}"
            ))),
            Some(_) if state.index() > count => Err(Error::SavedState(format!(
                "it continues at stage {} of {count}",
                state.index()
            ))),
            Some(_) => {
                self.solver.restore(state)?;
                self.index = state.index();
                Ok(())
            }
        }
    }
}
