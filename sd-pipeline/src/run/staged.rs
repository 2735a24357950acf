//! A guidance over stages of a run, in which the network is told different things.

use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{At, Guidance, Guide, NetworkOutput, Result, SavedState, Text};

/// A guidance whose branches the network has several times, once for each stage of the run.
#[derive(Debug, Clone)]
pub(super) struct Staged {
    inner: Arc<dyn Guidance>,
    stages: Stages,
}

#[derive(Debug, Clone)]
struct Stages {
    /// Shares of the steps with which they begin, ascending, the first 0.
    begin: Arc<[f64]>,
    /// Branches of each.
    branches: usize,
}

impl Staged {
    /// `inner`, of so many branches, over stages that begin with these shares of the steps: of the
    /// stage number `k` the network's are those from `k · branches` on.
    pub(super) fn new(inner: Arc<dyn Guidance>, begin: Vec<f64>, branches: usize) -> Self {
        let begin = begin.into();
        let stages = Stages { begin, branches };
        Self { inner, stages }
    }
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
        let Stages { begin, branches } = &self.stages;
        let first = |share: &&f64| (**share * at.steps as f64) as usize <= at.step;
        let stage = begin.iter().filter(first).count().saturating_sub(1);
        let wanted = self.inner.wanted(at).into_iter();
        wanted.map(|branch| stage * branches + branch).collect()
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
