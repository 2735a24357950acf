use std::collections::HashMap;
use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    At, Conditioning, Extension, Guidance, Guide, NetworkOutput, Result, SavedState, Text,
};

use super::script::Script;

/// A guidance under prompts that change with the step and have several parts. It sees one text of
/// each kind, as it would of a plain prompt: whichever holds in the step, and of several parts what
/// they are together.
///
/// Parts are composed as in A1111 (Liu et al. 2022, arXiv:2206.01714): from the output of the branch
/// that is not the prompt's each part goes its own way as far as its weight says.
#[derive(Debug, Clone)]
pub(super) struct Varying {
    inner: Arc<dyn Guidance>,
    scenes: Arc<Scenes>,
}

/// Branches of the network by what holds when.
#[derive(Debug)]
struct Scenes {
    /// Weights of the prompt's parts.
    weights: Vec<f64>,
    /// Number of the scene of each step.
    by_step: Vec<usize>,
    /// The step that the run begins with, where it goes on with another's.
    first: usize,
    all: Vec<Scene>,
}

/// Branches of the network, as the guidance numbers its own.
#[derive(Debug)]
struct Scene(Vec<Branches>);

/// One branch of the guidance's.
#[derive(Debug)]
struct Branches {
    /// `true` of one that is made of the prompt.
    is_prompts: bool,
    /// The network's, one for each part of the prompt if it is made of that.
    of: Vec<usize>,
}

/// Mark of the text that a branch is made of.
#[derive(Debug, Clone)]
struct Origin(Text);

impl Extension for Origin {
    const NAME: &'static str = "the kind of its text";
}

impl Varying {
    /// `inner` over `steps` steps from number `first` on, under the `scripts` of its texts, and the
    /// branches of the network for it.
    pub(super) fn new(
        inner: Arc<dyn Guidance>,
        scripts: &[Script<Conditioning>],
        first: usize,
        steps: usize,
    ) -> Result<(Self, Vec<Conditioning>)> {
        let kinds = inner.texts();
        let of_prompt = kinds.iter().position(|kind| *kind == Text::Prompt);
        let parts = of_prompt.map_or(&[][..], |k| &scripts[k]);
        let weights: Vec<f64> = parts.iter().map(|part| part.weight).collect();
        let (mut by_step, mut all, mut branches) = (Vec::new(), Vec::new(), Vec::new());
        let mut known = HashMap::new();
        for step in 0..=first + steps {
            let holding = scripts.iter().flatten().map(|part| part.at(step));
            let holding: Vec<usize> = holding.collect();
            if let Some(scene) = known.get(&holding) {
                by_step.push(*scene);
                continue;
            }
            let mut scene = Scene(Vec::new());
            for number in 0..weights.len().max(1) {
                let texts = kinds.iter().zip(scripts).map(|(kind, script)| {
                    let part = &script[number.min(script.len() - 1)];
                    let mut text = part.texts[part.at(step)].1.clone();
                    text.extensions.insert(Origin(*kind));
                    text
                });
                let made = inner.branches(texts.collect())?;
                for (k, mut branch) in made.into_iter().enumerate() {
                    let origin = branch.extensions.take::<Origin>();
                    let is_prompts = origin.is_none_or(|Origin(text)| text == Text::Prompt);
                    if number > 0 && !is_prompts {
                        continue;
                    }
                    if number == 0 {
                        let of = Vec::new();
                        scene.0.push(Branches { is_prompts, of });
                    }
                    if let Some(entry) = scene.0.get_mut(k) {
                        entry.of.push(branches.len());
                        branches.push(branch);
                    }
                }
            }
            known.insert(holding, all.len());
            by_step.push(all.len());
            all.push(scene);
        }
        let scenes = Scenes {
            weights,
            by_step,
            first,
            all,
        };
        let scenes = Arc::new(scenes);
        Ok((Self { inner, scenes }, branches))
    }
}

impl Guidance for Varying {
    fn texts(&self) -> Vec<Text> {
        self.inner.texts()
    }

    fn start(&self) -> Box<dyn Guide> {
        Box::new(VaryingGuide {
            inner: self.inner.start(),
            scenes: self.scenes.clone(),
        })
    }
}

#[derive(Debug)]
struct VaryingGuide {
    inner: Box<dyn Guide>,
    scenes: Arc<Scenes>,
}

impl VaryingGuide {
    /// The branches that the inner guide wants.
    fn branches(&self, at: &At<'_>) -> Vec<&Branches> {
        let scenes = &self.scenes;
        let last = scenes.by_step.len() - 1;
        let scene = scenes.by_step[(scenes.first + at.step).min(last)];
        let all = &scenes.all[scene].0;
        let wanted = self.inner.wanted(at).into_iter();
        wanted.filter_map(|k| all.get(k)).collect()
    }
}

impl Guide for VaryingGuide {
    fn wanted(&self, at: &At<'_>) -> Vec<usize> {
        let branches = self.branches(at).into_iter();
        branches.flat_map(|branch| branch.of.clone()).collect()
    }

    fn combine(&mut self, at: &At<'_>, outputs: Vec<Tensor<4>>) -> Result<NetworkOutput> {
        let mut outputs = outputs.into_iter();
        let branches = self.branches(at).into_iter();
        let each = branches.map(|branch| {
            let of: Vec<_> = outputs.by_ref().take(branch.of.len()).collect();
            (branch.is_prompts, of)
        });
        let each: Vec<(bool, Vec<Tensor<4>>)> = each.collect();
        let beside = each.iter().find(|(is_prompts, _)| !is_prompts);
        let beside = beside.and_then(|(_, of)| of.first().cloned());
        let weights = &self.scenes.weights;
        let one = |(is_prompts, of): (bool, Vec<Tensor<4>>)| {
            // Without another branch the first part stands for it.
            let from = beside.as_ref().or(of.first())?.clone();
            let plain = !is_prompts || weights.as_slice() == [1.0];
            if plain {
                return of.into_iter().next();
            }
            let parts = weights.iter().zip(of);
            Some(parts.fold(from.clone(), |sum, (weight, part)| {
                sum + (part - from.clone()) * *weight
            }))
        };
        let outputs = each.into_iter().filter_map(one).collect();
        self.inner.combine(at, outputs)
    }

    fn save(&self) -> SavedState {
        self.inner.save()
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.inner.restore(state)
    }
}
