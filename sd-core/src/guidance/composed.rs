use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Tensor;

use super::combination::share;
use super::samples::{deviation, divisor};
use super::{
    At, Combination, Contrast, Guidance, Guide, Linear, NetworkOutput, ScaleCurve, Text, interval,
};
use crate::{Conditioning, Error, Result, SavedState};

/// Guidance composed of parts that papers have apart: a [`Combination`] of the outputs under prompt
/// and negative prompt, [`Contrast`]s to weakened networks, and what is done to their sum.
///
/// ```
/// # use std::sync::Arc;
/// # use sd_core::{Composed, Contrast, Perturbation, Perturbed, Projected};
/// let pag = Perturbed {
///     layers: vec!["mid_block".into()],
///     perturbation: Perturbation::IdentityAttention,
/// };
/// let guidance = Composed {
///     combination: Some(Arc::new(Projected { eta: 0.0, ..Projected::default() })),
///     contrasts: vec![Contrast::perturbed(pag, 3.0)],
///     interval: 0.1..0.8,
///     ..Composed::classifier_free(5.0)
/// };
/// ```
#[derive(Debug, Clone)]
pub struct Composed {
    /// The guidance scale, usually 1 to 15.
    pub scale: ScaleCurve,
    /// What guidance makes of the outputs of texts; `None` evaluates the prompt alone, and
    /// [`scale`](Self::scale) has no say.
    pub combination: Option<Arc<dyn Combination>>,
    /// Contrasts that are added to it.
    pub contrasts: Vec<Contrast>,
    /// Share φ, from 0 to 1, of the result that is scaled to the prompt's own standard deviation, for
    /// each sample (Lin et al. 2023, arXiv:2305.08891, section 3.4), on the raw output as in
    /// diffusers; 0 is none.
    pub rescale: f64,
    /// Part of the run that is guided, in fractions of its steps (Kynkäänniemi et al. 2024,
    /// arXiv:2404.07724): from step `⌊start·steps⌋` to before `⌊end·steps⌋`. Elsewhere the prompt
    /// alone is evaluated.
    pub interval: Range<f64>,
}

impl Composed {
    /// Classifier-free guidance and nothing else.
    pub fn classifier_free(scale: impl Into<ScaleCurve>) -> Self {
        Self {
            scale: scale.into(),
            combination: Some(Arc::new(Linear)),
            contrasts: Vec::new(),
            rescale: 0.0,
            interval: 0.0..1.0,
        }
    }

    /// The prompt alone, to which contrasts can be added.
    pub fn prompt_alone() -> Self {
        Self {
            combination: None,
            ..Self::classifier_free(1.0)
        }
    }

    fn texts_and_prompt(&self) -> (Vec<Text>, usize) {
        let texts = self.combination.as_ref();
        let texts = texts.map_or_else(|| vec![Text::Prompt], |combination| combination.texts());
        let prompt = texts.iter().position(|text| *text == Text::Prompt);
        (texts, prompt.unwrap_or_default())
    }

    fn check(&self) -> Result<()> {
        self.scale.check()?;
        share("guidance rescale", self.rescale)?;
        interval::check("guidance interval", &self.interval)?;
        self.contrasts.iter().try_for_each(Contrast::check)?;
        let Some(combination) = &self.combination else {
            return Ok(());
        };
        if !combination.texts().contains(&Text::Prompt) {
            let found = format!("{:?}", combination.texts());
            let expected = "expected the prompt among them";
            return Err(Error::invalid("the combination's texts", found, expected));
        }
        combination.check()
    }
}

impl Guidance for Composed {
    fn texts(&self) -> Vec<Text> {
        self.texts_and_prompt().0
    }

    fn branches(&self, mut texts: Vec<Conditioning>) -> Result<Vec<Conditioning>> {
        self.check()?;
        let (kinds, prompt) = self.texts_and_prompt();
        if texts.len() != kinds.len() {
            let expected = format!("expected {}", kinds.len());
            return Err(Error::invalid("guidance's texts", texts.len(), expected));
        }
        let prompt = texts[prompt].clone();
        texts.extend(self.contrasts.iter().map(|contrast| {
            let mut branch = prompt.clone();
            branch.extensions.extend(contrast.weakened.clone());
            branch
        }));
        Ok(texts)
    }

    fn evaluations(&self, step: usize, steps: usize) -> usize {
        if !interval::contains(&self.interval, step, steps) {
            return 1;
        }
        let counts = |c: &&Contrast| c.scale != 0.0 && interval::contains(&c.interval, step, steps);
        self.texts().len() + self.contrasts.iter().filter(counts).count()
    }

    fn start(&self) -> Box<dyn Guide> {
        Box::new(ComposedGuide {
            settings: self.clone(),
            memory: SavedState::default(),
        })
    }
}

/// One run of [`Composed`].
#[derive(Debug)]
struct ComposedGuide {
    settings: Composed,
    /// The combination's.
    memory: SavedState,
}

impl ComposedGuide {
    /// The contrasts that count there: their numbers and scales.
    fn contrasts(&self, at: &At<'_>) -> impl Iterator<Item = (usize, f64)> {
        let contrasts = self.settings.contrasts.iter().enumerate();
        let scales = contrasts.map(|(k, c)| (k, c.scale_at(at.level, at.step, at.steps)));
        scales.filter(|(_, scale)| *scale != 0.0)
    }

    fn guides(&self, at: &At<'_>) -> bool {
        interval::contains(&self.settings.interval, at.step, at.steps)
    }
}

impl Guide for ComposedGuide {
    fn wanted(&self, at: &At<'_>) -> Vec<usize> {
        let (texts, prompt) = self.settings.texts_and_prompt();
        if !self.guides(at) {
            return vec![prompt];
        }
        let contrasts = self.contrasts(at).map(|(k, _)| texts.len() + k);
        (0..texts.len()).chain(contrasts).collect()
    }

    fn combine(&mut self, at: &At<'_>, outputs: Vec<Tensor<4>>) -> Result<NetworkOutput> {
        let wanted = self.wanted(at).len();
        if outputs.len() != wanted {
            let expected = format!("expected {wanted}, one for each branch that was asked for");
            return Err(Error::invalid("network outputs", outputs.len(), expected));
        }
        // A variance that the network learned is the prompt's own: no guidance knows of it.
        let channels = at.x.dims()[1];
        let (texts, prompt) = self.settings.texts_and_prompt();
        let prompt = if self.guides(at) { prompt } else { 0 };
        let rest = outputs[prompt].dims()[1].saturating_sub(channels);
        let variance = (rest > 0).then(|| outputs[prompt].clone().narrow(1, channels, rest));
        let mut outputs: Vec<_> = (outputs.into_iter())
            .map(|output| output.narrow(1, 0, channels))
            .collect();

        let cond = outputs[prompt].clone();
        let mut result = NetworkOutput::unguided(cond.clone());
        if self.guides(at) {
            let weak = outputs.split_off(texts.len());
            if let Some(combination) = &self.settings.combination {
                result.uncond = outputs.first().cloned();
                let scale = self.settings.scale.at(at.step, at.steps);
                result.guided = combination.combine(at, scale, outputs, &mut self.memory)?;
            }
            for ((_, scale), weak) in self.contrasts(at).zip(weak) {
                result.guided = result.guided + (cond.clone() - weak) * scale;
            }
            if self.settings.rescale > 0.0 {
                let guided = result.guided;
                let kept = deviation(&cond) / divisor(deviation(&guided));
                let kept = guided.clone() * kept;
                result.guided = guided.clone() + (kept - guided) * self.settings.rescale;
            }
        }
        if let Some(variance) = variance {
            result.guided = Tensor::cat(vec![result.guided, variance], 1);
        }
        Ok(result)
    }

    fn save(&self) -> SavedState {
        self.memory.clone()
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        let remembers = |combination: &Arc<dyn Combination>| combination.remembers();
        let none = state.numbers.is_empty() && state.tensors.is_empty();
        if !none && !self.settings.combination.as_ref().is_some_and(remembers) {
            let reason = "it is of a guidance that remembers, and this one does not";
            return Err(Error::SavedState(reason.into()));
        }
        self.memory = state.clone();
        Ok(())
    }
}
