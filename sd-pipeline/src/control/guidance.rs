use std::ops::Range;
use std::sync::Arc;

use sd_core::{Conditioning, Guidance, Guide, Result, Text};
use sd_models::unet::{UNetAdapter, UNetAdapters};

use crate::stages::{Staged, Stages};

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
    entries: Vec<Entry>,
    /// Numbers of the networks that steer in each stage.
    sets: Vec<Vec<usize>>,
    staged: Staged,
}

impl Controlled {
    pub(super) fn new(inner: Arc<dyn Guidance>, entries: Vec<Entry>, steps: usize) -> Self {
        let (stages, sets) = Stages::new(steps, |step| {
            let steer = entries.iter().enumerate();
            let steer = steer.filter(|(_, entry)| entry.steps.contains(&step));
            steer.map(|(k, _)| k).collect::<Vec<_>>()
        });
        Self {
            entries,
            sets,
            staged: Staged { inner, stages },
        }
    }
}

impl Guidance for Controlled {
    fn texts(&self) -> Vec<Text> {
        self.staged.texts()
    }

    fn branches(&self, texts: Vec<Conditioning>) -> Result<Vec<Conditioning>> {
        let kinds = self.texts();
        let mut sets = Vec::new();
        for set in &self.sets {
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
            sets.push(self.staged.inner.branches(steered.collect())?.into_iter());
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
        self.staged.evaluations(step, steps)
    }

    fn start(&self) -> Box<dyn Guide> {
        self.staged.start()
    }
}
