//! Stages of a run, in which the network is told different things.

use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{At, Guidance, Guide, NetworkOutput, Result, SavedState, Text};

/// The stages of a run: which of them each step is in.
#[derive(Debug, Clone)]
pub(crate) struct Stages {
    count: usize,
    by_step: Arc<[usize]>,
}

impl Stages {
    /// The stages of `steps` steps, one for each thing that is `told` in some of them, and these
    /// things.
    pub(crate) fn new<T: PartialEq>(steps: usize, told: impl Fn(usize) -> T) -> (Self, Vec<T>) {
        let (mut all, mut by_step) = (Vec::new(), Vec::new());
        for step in 0..steps.max(1) {
            let told = told(step);
            let known = all.iter().position(|other| *other == told);
            by_step.push(known.unwrap_or(all.len()));
            if known.is_none() {
                all.push(told);
            }
        }
        let stages = Self {
            count: all.len(),
            by_step: by_step.into(),
        };
        (stages, all)
    }
}

/// A guidance whose branches the network has several times, one behind the other for the stages of
/// the run.
#[derive(Debug, Clone)]
pub(crate) struct Staged {
    pub(crate) inner: Arc<dyn Guidance>,
    pub(crate) stages: Stages,
}

impl Guidance for Staged {
    fn texts(&self) -> Vec<Text> {
        self.inner.texts()
    }

    fn evaluations(&self, step: usize, steps: usize) -> usize {
        self.inner.evaluations(step, steps)
    }

    fn start(&self) -> Box<dyn Guide> {
        Box::new(StagedGuide {
            inner: self.inner.start(),
            stages: self.stages.clone(),
        })
    }
}

#[derive(Debug)]
struct StagedGuide {
    inner: Box<dyn Guide>,
    stages: Stages,
}

impl Guide for StagedGuide {
    fn wanted(&self, at: &At<'_>) -> Vec<usize> {
        let Stages { count, by_step } = &self.stages;
        let stage = by_step[at.step.min(by_step.len() - 1)];
        let wanted = self.inner.wanted(at).into_iter();
        wanted.map(|branch| branch * count + stage).collect()
    }

    fn combine(&mut self, at: &At<'_>, outputs: Vec<Tensor<4>>) -> Result<NetworkOutput> {
        self.inner.combine(at, outputs)
    }

    fn save(&self) -> SavedState {
        self.inner.save()
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.inner.restore(state)
    }
}
