//! Prompts in their syntax, as one encoder reads them.

mod a1111;
mod chunk;
mod comfyui;
mod compel;
mod plain;
mod rows;

use burn::tensor::Tensor;
use sd_core::{Error, Prompt, Result, Syntax, TextEmbedding};

use super::ClipTextEncoder;
use chunk::Chunk;

/// Chunks that a prompt may take.
const MOST_CHUNKS: usize = 256;

/// A prompt for one encoder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    text: &'a str,
    syntax: Syntax,
    clip_skip: usize,
}

impl<'a> Line<'a> {
    /// That of a first encoder, or of one alone.
    pub(super) fn first(prompt: &'a Prompt) -> Self {
        Self {
            text: &prompt.text,
            syntax: prompt.syntax,
            clip_skip: prompt.clip_skip,
        }
    }

    /// That of the second encoder: its own text; where there is none, or an empty one, the first, as
    /// in diffusers.
    pub(super) fn second(prompt: &'a Prompt) -> Self {
        let second = prompt.second.as_deref().filter(|text| !text.is_empty());
        Self {
            text: second.unwrap_or(&prompt.text),
            ..Self::first(prompt)
        }
    }
}

impl ClipTextEncoder {
    /// The embedding of each of `lines`, with what was cut of it.
    pub(super) fn embed(&self, lines: &[Line<'_>]) -> Result<TextEmbedding> {
        if lines.is_empty() {
            return Err(Error::invalid("prompts", 0, "expected at least one"));
        }
        let alike = |a: &Line<'_>, b: &Line<'_>| (a.syntax, a.clip_skip) == (b.syntax, b.clip_skip);
        let groups = lines.chunk_by(alike).map(|group| {
            let (syntax, skip) = (group[0].syntax, group[0].clip_skip);
            let texts: Vec<&str> = group.iter().map(|line| line.text).collect();
            let embedding = match syntax {
                Syntax::A1111(emphasis) => a1111::embed(self, &texts, skip, emphasis)?,
                Syntax::ComfyUi => comfyui::embed(self, &texts, skip)?,
                Syntax::Compel => compel::embed(self, &texts, skip)?,
                Syntax::Plain => plain::embed(self, &texts, skip)?,
                other => {
                    let message = format!("CLIP text encoders read no {other} prompts");
                    return Err(Error::Unsupported(message));
                }
            };
            Ok((embedding, group))
        });
        let groups = groups.collect::<Result<Vec<_>>>()?;
        let lengths = groups.iter().map(|(one, _)| one.tokens.dims()[1]);
        let most = lengths.max().unwrap_or_default();
        let groups = groups.into_iter();
        let groups = groups.map(|(embedding, group)| self.lengthened(embedding, group, most));
        TextEmbedding::cat(groups.collect::<Result<_>>()?)
    }

    /// `embedding`, that of `lines`, which are read alike, with the empty prompt's behind it until it
    /// has `tokens` tokens.
    pub(super) fn lengthened(
        &self,
        mut embedding: TextEmbedding,
        lines: &[Line<'_>],
        tokens: usize,
    ) -> Result<TextEmbedding> {
        let [n, found, _] = embedding.tokens.dims();
        if found == tokens {
            return Ok(embedding);
        }
        let skip = lines.first().map_or(0, |line| line.clip_skip);
        let empty = self.rows(&[Chunk::empty(self.tokenizer())], skip)?.tokens;
        let missing = (tokens - found) / empty.dims()[1];
        let parts = [embedding.tokens.clone()].into_iter();
        let empty = std::iter::repeat_n(empty.repeat_dim(0, n), missing);
        embedding.tokens = Tensor::cat(parts.chain(empty).collect(), 1);
        Ok(embedding)
    }
}

/// Refuses a prompt of more chunks than there may be.
fn check_length(chunks: usize) -> Result<()> {
    if chunks > MOST_CHUNKS {
        let expected = format!("expected at most {MOST_CHUNKS}");
        return Err(Error::invalid("chunks of the prompt", chunks, expected));
    }
    Ok(())
}

/// The error of a text that is not in its syntax.
fn unreadable(error: sd_prompts::SyntaxError) -> Error {
    Error::Other(error.into())
}
