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
/// that is not the prompt's each part goes its own way as far as its weight says. Regions are blended
/// by their shares, each of its own parts.
#[derive(Debug, Clone)]
pub(super) struct Varying {
    inner: Arc<dyn Guidance>,
    scenes: Arc<Scenes>,
}

/// Branches of the network by what holds when.
#[derive(Debug)]
struct Scenes {
    /// Region and weight of each of the prompt's parts, those of a region one behind the other.
    parts: Vec<(usize, f64)>,
    /// Shares of the regions, `[1, 1, h, w]`; nothing where there are none.
    shares: Vec<Option<Tensor<4>>>,
    /// Number of the scene of each step.
    by_step: Vec<usize>,
    /// The step that the run begins with, where it goes on with another's.
    first: usize,
    all: Vec<Scene>,
}

impl Scenes {
    /// The scene of the run's step number `step`, from 0.
    fn at(&self, step: usize) -> &Scene {
        let last = self.by_step.len() - 1;
        &self.all[self.by_step[(self.first + step).min(last)]]
    }

    /// One output of those of the prompt's parts, which go their ways `from` another.
    fn composed(&self, from: Tensor<4>, parts: Vec<Tensor<4>>) -> Option<Tensor<4>> {
        let mut parts = parts.into_iter();
        if self.parts.is_empty() {
            return parts.next();
        }
        let regions = self.parts.chunk_by(|a, b| a.0 == b.0).map(|weights| {
            let own = parts.by_ref().take(weights.len());
            let (region, _) = weights[0];
            let output = match weights {
                [(_, 1.0)] => own.last()?,
                _ => own
                    .zip(weights)
                    .fold(from.clone(), |sum, (part, (_, weight))| {
                        sum + (part - from.clone()) * *weight
                    }),
            };
            Some(match self.shares.get(region).cloned().flatten() {
                Some(share) => output * share,
                None => output,
            })
        });
        regions
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .reduce(|a, b| a + b)
    }
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
    /// `inner` over `steps` steps from number `first` on, under the `scripts` of its texts, of which
    /// the prompt's is for regions of these `shares`, and the branches of the network for it.
    pub(super) fn new(
        inner: Arc<dyn Guidance>,
        scripts: &[Script<Conditioning>],
        shares: Vec<Option<Tensor<4>>>,
        first: usize,
        steps: usize,
    ) -> Result<(Self, Vec<Conditioning>)> {
        let kinds = inner.texts();
        let of_prompt = kinds.iter().position(|kind| *kind == Text::Prompt);
        let parts = of_prompt.map_or(&[][..], |k| &scripts[k]);
        let parts = parts.iter().map(|part| (part.region, part.weight));
        let parts: Vec<(usize, f64)> = parts.collect();
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
            for number in 0..parts.len().max(1) {
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
            parts,
            shares,
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

    fn evaluations(&self, step: usize, _steps: usize) -> usize {
        let all = &self.scenes.at(step).0;
        all.iter().map(|branch| branch.of.len()).sum()
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
        let all = &self.scenes.at(at.step).0;
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
        let one = |(is_prompts, of): (bool, Vec<Tensor<4>>)| {
            match is_prompts {
                // Without another branch the first part stands for it.
                true => self
                    .scenes
                    .composed(beside.as_ref().or(of.first())?.clone(), of),
                false => of.into_iter().next(),
            }
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

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use sd_core::{ClassifierFree, Level, Parameterization, Prompt, TextEmbedding, Unguided};

    use super::super::script::{Steps, script};
    use super::*;

    /// Conditioning that is told apart by a number.
    fn told(number: usize) -> Conditioning {
        let tokens = Tensor::full([1, 1, 1], number as f64, &Device::flex());
        Conditioning::new(TextEmbedding::new(tokens))
    }

    /// The scripts of prompts, their texts numbered.
    fn scripts(prompts: &[(&str, bool)]) -> (Vec<Script<Conditioning>>, Vec<String>) {
        let mut texts: Vec<String> = Vec::new();
        let mut number = |(end, prompt): (usize, Prompt)| {
            texts.push(prompt.text.trim().into());
            (end, told(texts.len() - 1))
        };
        let scripts = prompts.iter().map(|(text, composed)| {
            let parts = script(
                &Prompt::a1111(*text),
                Steps { own: 6, behind: 0 },
                *composed,
            )
            .unwrap()
            .into_iter();
            parts.map(|part| part.map(&mut number)).collect()
        });
        (scripts.collect(), texts)
    }

    /// What a network that answers with its text's number makes in each step, and the texts that it
    /// was asked for.
    fn run(inner: Arc<dyn Guidance>, prompts: &[(&str, bool)], first: usize) -> Vec<(f32, String)> {
        let (scripts, texts) = scripts(prompts);
        let (varying, branches) = Varying::new(inner, &scripts, Vec::new(), first, 6).unwrap();
        let number = |branch: &Conditioning| branch.text.tokens.clone().into_scalar::<f32>();
        let numbers: Vec<f32> = branches.iter().map(number).collect();
        let mut guide = varying.start();
        let x = Tensor::zeros([1, 1, 1, 1], &Device::flex());
        let level = Level::variance_preserving(500.0, 0.5);
        let step = |step| {
            let mut at = At::new(&x, level, Parameterization::Sample);
            (at.step, at.steps) = (step, 6);
            let wanted = guide.wanted(&at);
            let outputs = wanted.iter().map(|k| x.clone() + numbers[*k]);
            let asked = wanted.iter().map(|k| texts[numbers[*k] as usize].as_str());
            let asked = asked.collect::<Vec<_>>().join(" ");
            let made = guide.combine(&at, outputs.collect()).unwrap();
            (made.guided.into_scalar::<f32>(), asked)
        };
        (0..6).map(step).collect()
    }

    fn asked(found: &[(f32, String)]) -> String {
        let all: Vec<&str> = found.iter().map(|(_, asked)| &**asked).collect();
        all.join(", ")
    }

    #[test]
    fn texts_hold_up_to_their_steps_counted_from_0() {
        let guided = || Arc::new(ClassifierFree { scale: 2.0 });
        let found = run(guided(), &[("n", false), ("[a|b]", true)], 0);
        assert_eq!(asked(&found), "n a, n a, n b, n a, n b, n a");
        let found = run(guided(), &[("[m:n:1]", false), ("[a:b:0.5]", true)], 0);
        assert_eq!(asked(&found), "m a, m a, n a, n a, n b, n b");
        // A run that goes on with another's is further on.
        let found = run(guided(), &[("n", false), ("[a:b:0.5]", true)], 2);
        assert_eq!(asked(&found), "n a, n a, n b, n b, n b, n b");
        // Numbers of texts: n, a, b. The guidance sees one of either kind.
        let (made, _) = &run(guided(), &[("n", false), ("[a:b:2]", true)], 0)[5];
        assert_eq!(*made, 0.0 + 2.0 * (2.0 - 0.0));
    }

    #[test]
    fn parts_go_their_ways_from_the_negative_prompt() {
        let guided = Arc::new(ClassifierFree { scale: 3.0 });
        let prompts = [("n AND m:2", false), ("a AND [b:c:1]:0.5 AND d:-1", true)];
        let found = run(guided, &prompts, 0);
        // Of the negative prompt AND is text.
        let first = "n AND m:2 a b d";
        let then = "n AND m:2 a c d";
        let expected = [first, first, then, then, then, then].join(", ");
        assert_eq!(asked(&found), expected);
        // Numbers: n 0, a 1, b 2, c 3, d 4.
        let made: Vec<f32> = found.iter().map(|(made, _)| *made).collect();
        let way = |second: f32| 3.0 * (1.0 + 0.5 * second - 4.0);
        assert_eq!(made[..3], [way(2.0), way(2.0), way(3.0)]);
    }

    #[test]
    fn regions_are_blended_by_their_shares_each_of_its_own_parts() {
        let (mut scripts, _) = scripts(&[("n", false), ("a", true), ("b AND c:0.5", true)]);
        for part in &mut scripts[2] {
            part.region = 1;
        }
        let second = scripts.pop().unwrap();
        scripts[1].extend(second);
        let row = |values: [f32; 2]| Some(Tensor::<4>::from_data([[[values]]], &Device::flex()));
        let shares = vec![row([1.0, 0.25]), row([0.0, 0.75])];
        let guided = Arc::new(ClassifierFree { scale: 2.0 });
        let (varying, branches) = Varying::new(guided, &scripts, shares, 0, 3).unwrap();
        // Numbers of texts: n 0, a 1, b 2, c 3.
        assert_eq!((branches.len(), varying.evaluations(0, 3)), (4, 4));
        let x = Tensor::zeros([1, 1, 1, 2], &Device::flex());
        let at = At::new(
            &x,
            Level::variance_preserving(500.0, 0.5),
            Parameterization::Sample,
        );
        let mut guide = varying.start();
        let outputs = guide.wanted(&at).into_iter();
        let outputs =
            outputs.map(|k| x.clone() + branches[k].text.tokens.clone().into_scalar::<f32>());
        let made = guide.combine(&at, outputs.collect()).unwrap().guided;
        let second = 2.0 + 0.5 * 3.0;
        let expected = [2.0 * 1.0, 2.0 * (0.25 * 1.0 + 0.75 * second)];
        assert_eq!(made.try_into_vec_as::<f32>().unwrap(), expected);
    }

    #[test]
    fn without_a_negative_prompt_parts_go_from_the_first() {
        let found = run(Arc::new(Unguided), &[("a AND b:0.5", true)], 0);
        assert_eq!(found[0], (0.5, "a b".into()));
        let found = run(Arc::new(Unguided), &[("a:0.5", true)], 0);
        assert_eq!(found[0], (0.0, "a".into()));
    }
}
