use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{At, Conditioning, Guidance, Guide, NetworkOutput, Result, SavedState, Text};
use sd_models::unet::{UNetAdapter, UNetAdapters};

/// A network beside the U-Net, and where it steers.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) adapter: Arc<dyn UNetAdapter>,
    /// The run's steps in which it does.
    pub(super) steps: Range<usize>,
    /// `true` of one that steers the prompt's branch alone.
    pub(super) on_prompt: bool,
}

/// A guidance some of whose branches are steered in some of the steps: those of the network are the
/// guidance's own once for each set of networks that steer together.
#[derive(Debug)]
pub(super) struct Controlled {
    inner: Arc<dyn Guidance>,
    entries: Vec<Entry>,
    sets: Arc<Sets>,
}

/// Sets of networks.
#[derive(Debug)]
struct Sets {
    /// Numbers of the networks in each.
    all: Vec<Vec<usize>>,
    /// Number of the set of each step.
    by_step: Vec<usize>,
}

impl Controlled {
    pub(super) fn new(inner: Arc<dyn Guidance>, entries: Vec<Entry>, steps: usize) -> Self {
        let (mut all, mut by_step) = (Vec::new(), Vec::new());
        for step in 0..steps.max(1) {
            let steer = entries.iter().enumerate();
            let steer = steer.filter(|(_, entry)| entry.steps.contains(&step));
            let set: Vec<usize> = steer.map(|(k, _)| k).collect();
            let known = all.iter().position(|other| *other == set);
            by_step.push(known.unwrap_or(all.len()));
            if known.is_none() {
                all.push(set);
            }
        }
        Self {
            inner,
            entries,
            sets: Arc::new(Sets { all, by_step }),
        }
    }
}

impl Guidance for Controlled {
    fn texts(&self) -> Vec<Text> {
        self.inner.texts()
    }

    fn branches(&self, texts: Vec<Conditioning>) -> Result<Vec<Conditioning>> {
        let kinds = self.inner.texts();
        let mut sets = Vec::new();
        for set in &self.sets.all {
            let steered = texts.iter().zip(&kinds).map(|(text, kind)| {
                let mut text = text.clone();
                let own = text.extensions.take::<UNetAdapters>();
                let mut adapters = own.unwrap_or_default().0;
                let steering = set.iter().map(|k| &self.entries[*k]);
                let steering = steering.filter(|e| *kind == Text::Prompt || !e.on_prompt);
                adapters.extend(steering.map(|entry| entry.adapter.clone()));
                if !adapters.is_empty() {
                    text.extensions.insert(UNetAdapters(adapters));
                }
                text
            });
            sets.push(self.inner.branches(steered.collect())?.into_iter());
        }
        // One behind the other each of the guidance's, as all sets have it.
        let mut branches = Vec::new();
        while let Some(all) = sets
            .iter_mut()
            .map(Iterator::next)
            .collect::<Option<Vec<_>>>()
        {
            branches.extend(all);
        }
        Ok(branches)
    }

    fn evaluations(&self, step: usize, steps: usize) -> usize {
        self.inner.evaluations(step, steps)
    }

    fn start(&self) -> Box<dyn Guide> {
        Box::new(ControlledGuide {
            inner: self.inner.start(),
            sets: self.sets.clone(),
        })
    }
}

#[derive(Debug)]
struct ControlledGuide {
    inner: Box<dyn Guide>,
    sets: Arc<Sets>,
}

impl Guide for ControlledGuide {
    fn wanted(&self, at: &At<'_>) -> Vec<usize> {
        let last = self.sets.by_step.len() - 1;
        let set = self.sets.by_step[at.step.min(last)];
        let wanted = self.inner.wanted(at).into_iter();
        wanted
            .map(|branch| set + branch * self.sets.all.len())
            .collect()
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
