//! Prompts over a run: which text holds in which step, and what is evaluated beside what.

use sd_core::{Error, Prompt, Result, Syntax, TextEmbedding};
use sd_prompts::a1111::{self, schedule, without_comments};
use sd_prompts::{SyntaxError, Weighted};

use crate::Request;

/// Steps of a run, and of the pass before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steps {
    pub(super) own: usize,
    pub(super) behind: usize,
}

/// A prompt's parts, which are evaluated beside each other.
pub(super) type Script<T> = Vec<Part<T>>;

/// A part of a prompt, with its texts as prompts or as embeddings.
#[derive(Debug, Clone)]
pub(super) struct Part<T> {
    /// Number of the region that it is for, 0 for the request's own prompt.
    pub(super) region: usize,
    /// Its weight beside the other parts of the region.
    pub(super) weight: f64,
    /// Its texts, each with the last step that it holds for, from 0.
    pub(super) texts: Vec<(usize, T)>,
}

impl<T> Part<T> {
    /// A text for all of a run.
    pub(super) fn constant(text: T) -> Self {
        Self {
            region: 0,
            weight: 1.0,
            texts: vec![(usize::MAX, text)],
        }
    }

    /// Number of the text that holds in the step number `step`.
    pub(super) fn at(&self, step: usize) -> usize {
        let found = self.texts.iter().position(|(end, _)| step <= *end);
        found.unwrap_or(self.texts.len().saturating_sub(1))
    }

    /// The same with a text that ends at each of `ends`, whatever follows it.
    pub(super) fn ending_at(self, ends: impl Iterator<Item = usize>) -> Self
    where
        T: Clone,
    {
        let mut all: Vec<usize> = self.texts.iter().map(|(end, _)| *end).collect();
        let last = all.last().copied().unwrap_or_default();
        all.extend(ends.filter(|end| *end < last));
        all.sort_unstable();
        all.dedup();
        let text = |end: usize| Some((end, self.texts.get(self.at(end))?.1.clone()));
        Self {
            region: self.region,
            weight: self.weight,
            texts: all.into_iter().filter_map(text).collect(),
        }
    }

    /// The same of other texts.
    pub(super) fn map<U>(self, text: impl FnMut((usize, T)) -> (usize, U)) -> Part<U> {
        Part {
            region: self.region,
            weight: self.weight,
            texts: self.texts.into_iter().map(text).collect(),
        }
    }
}

/// What `prompt` says over a run of `steps` steps, behind those of a first pass. A negative prompt,
/// which is not `composed`, has one part whatever it says, as in A1111.
pub(super) fn script(prompt: &Prompt, steps: Steps, composed: bool) -> Result<Script<Prompt>> {
    if !matches!(prompt.syntax, Syntax::A1111(_)) {
        return Ok(vec![Part::constant(prompt.clone())]);
    }
    let text = without_comments(&prompt.text).map_err(unreadable)?;
    let second = prompt.second.as_ref().filter(|text| !text.is_empty());
    let second = second.map(|text| without_comments(text).map_err(unreadable));
    let second = second.transpose()?;
    let parts = match composed {
        true => a1111::parts(&text).map_err(unreadable)?,
        false => vec![Weighted::new(text, 1.0)],
    };
    if second.is_some() && parts.len() > 1 {
        return Err(Error::Unsupported(
            "a prompt of several parts (AND) with a text of its own for the second encoder".into(),
        ));
    }
    let part = |part: Weighted| {
        let texts = timed(prompt, &part.text, second.as_deref(), steps)?;
        let weight = part.weight;
        let region = 0;
        Ok(Part {
            region,
            weight,
            texts,
        })
    };
    parts.into_iter().map(part).collect()
}

/// The script of `request`'s prompt and behind it those of its regions'.
pub(super) fn scripts(request: &Request, steps: Steps) -> Result<Script<Prompt>> {
    let mut all = script(&request.prompt, steps, true)?;
    for (k, region) in request.regions.iter().enumerate() {
        let parts = script(&region.prompt, steps, true)?.into_iter();
        let region = k + 1;
        all.extend(parts.map(|part| Part { region, ..part }));
    }
    Ok(all)
}

/// Number of parts that `request`'s prompt and its regions' have, which are evaluated beside each
/// other.
pub(crate) fn parts(request: &Request) -> Result<usize> {
    let steps = Steps {
        own: request.steps,
        behind: 0,
    };
    Ok(scripts(request, steps)?.len())
}

/// The texts of both encoders, which change where either does.
fn timed(
    prompt: &Prompt,
    text: &str,
    second: Option<&str>,
    Steps { own, behind }: Steps,
) -> Result<Vec<(usize, Prompt)>> {
    let read = |text: &str| schedule(text, own, behind).map_err(unreadable);
    let first = read(text)?;
    let second = second.map(read);
    let second = second.transpose()?;
    let mut ends: Vec<usize> = first
        .iter()
        .chain(second.iter().flatten())
        .map(|t| t.end)
        .collect();
    ends.sort_unstable();
    ends.dedup();
    let at = |end: usize| {
        let of = |all: &[a1111::Timed]| {
            let found = all.iter().find(|timed| end <= timed.end);
            found.map_or_else(String::new, |timed| timed.text.clone())
        };
        let mut prompt = prompt.clone();
        prompt.text = of(&first);
        prompt.second = second.as_deref().map(of);
        (end, prompt)
    };
    Ok(ends.into_iter().map(at).collect())
}

fn unreadable(error: SyntaxError) -> Error {
    Error::Other(error.into())
}

/// `parts` with as many tokens in each of a region: to shorter ones their last vector is repeated,
/// as in A1111.
pub(super) fn of_one_length(parts: Script<TextEmbedding>) -> Script<TextEmbedding> {
    let tokens = |text: &TextEmbedding| text.tokens.dims()[1];
    let of_region = |region: usize| {
        let parts = parts.iter().filter(|part| part.region == region);
        let all = parts.flat_map(|part| &part.texts);
        all.map(|(_, text)| tokens(text)).max().unwrap_or_default()
    };
    let most: Vec<usize> = parts.iter().map(|part| of_region(part.region)).collect();
    let lengthened = |most: usize, (end, mut text): (usize, TextEmbedding)| {
        let missing = most - tokens(&text);
        if missing > 0 {
            let last = text.tokens.clone().narrow(1, tokens(&text) - 1, 1);
            let more = last.repeat_dim(1, missing);
            text.tokens = burn::tensor::Tensor::cat(vec![text.tokens, more], 1);
        }
        (end, text)
    };
    let parts = parts.into_iter().zip(most);
    let parts = parts.map(|(part, most)| part.map(|text| lengthened(most, text)));
    parts.collect()
}
