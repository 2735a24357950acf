//! Chunks and weights of the package compel 2.5 (`embeddings_provider.py`), with what its
//! `CompelForSD` and `CompelForSDXL` set: long texts are split at sentences, and what is weakened is
//! mixed with what the text would be without it.

use std::f64::consts::FRAC_PI_2;
use std::ops::Range;

use burn::tensor::Tensor;
use sd_core::{Result, TextEmbedding};
use sd_prompts::Weighted;
use sd_prompts::compel::{Content, parts};

use super::super::ClipTextEncoder;
use super::chunk::Chunk;
use super::comfyui::interpolated;
use super::{check_length, unreadable};
use crate::ClipTokenizer;

/// Least weight of a piece, for the share of the text without it to be finite.
const LEAST: f64 = 1e-5;

pub(super) fn embed(
    encoder: &ClipTextEncoder,
    texts: &[&str],
    skip: usize,
) -> Result<TextEmbedding> {
    let tokenizer = encoder.tokenizer();
    let compel = Compel {
        encoder,
        empty: encoder.rows(&[Chunk::empty(tokenizer)], skip)?.tokens,
        skip,
    };
    let tokens = texts.iter().map(|text| compel.text(text));
    let tokens = compel.of_one_length(tokens.collect::<Result<_>>()?);
    let embedding = TextEmbedding::new(Tensor::cat(tokens, 0));
    if encoder.model().config().projection.is_none() {
        return Ok(embedding);
    }
    // The pooled vectors are those of the texts as they are written, signs and all, cut to one chunk.
    let ids = texts.iter().map(|text| Ok(tokenizer.encode(text)?.ids));
    let rows = encoder.rows_of(&ids.collect::<Result<Vec<_>>>()?, skip)?;
    Ok(match rows.pooled {
        Some(pooled) => embedding.with_pooled(pooled),
        None => embedding,
    })
}

struct Compel<'a> {
    encoder: &'a ClipTextEncoder,
    /// Vectors of a chunk without text, `[1, tokens, width]`.
    empty: Tensor<3>,
    skip: usize,
}

impl Compel<'_> {
    /// The vectors `[1, tokens, width]` of a text, its parts one behind the other.
    fn text(&self, text: &str) -> Result<Tensor<3>> {
        let parts = parts(text).map_err(unreadable)?.into_iter().map(|part| {
            let tokens = match part.content {
                Content::Text(pieces) => self.pieces(&pieces)?,
                Content::Blend { texts, normalizes } => {
                    let (weights, texts): (Vec<f64>, Vec<_>) = texts.into_iter().unzip();
                    let texts = texts.iter().map(|pieces| self.pieces(pieces));
                    let texts = self.of_one_length(texts.collect::<Result<_>>()?);
                    sum(texts, &weights, normalizes)
                }
            };
            Ok(match part.weight {
                1.0 => tokens,
                weight => {
                    let empty = self.lengthened(self.empty.clone(), tokens.dims()[1]);
                    empty.clone() + (tokens - empty) * weight
                }
            })
        });
        let parts = parts.collect::<Result<Vec<Tensor<3>>>>()?;
        check_length(parts.iter().map(|part| part.dims()[1]).sum::<usize>() / self.length())?;
        Ok(Tensor::cat(parts, 1))
    }

    fn length(&self) -> usize {
        self.empty.dims()[1]
    }

    /// The vectors `[1, tokens, width]` of weighted pieces.
    fn pieces(&self, pieces: &[Weighted]) -> Result<Tensor<3>> {
        let (chunks, places) = chunks(self.encoder.tokenizer(), pieces)?;
        let rows = self.encoder.rows(&chunks, self.skip)?.tokens;
        let whole = interpolated(rows.clone(), &self.empty, &chunks);
        let weak = pieces.iter().zip(places);
        let weak = weak.filter(|(piece, place)| piece.weight < 1.0 && !place.is_empty());
        let share = |weight: f64| ((1.0 - weight.max(LEAST)) * FRAC_PI_2).tan();
        let weak: Vec<_> = weak.map(|(piece, at)| (share(piece.weight), at)).collect();
        // Summed one by one: each is as large as the text, and there may be one for each word.
        let total = 1.0 + weak.iter().map(|(share, _)| share).sum::<f64>();
        let mut tokens = whole;
        if !weak.is_empty() {
            tokens = tokens * (1.0 / total);
        }
        for (share, place) in weak {
            let without = self.without(&chunks, &rows, place)?;
            tokens = tokens + interpolated(without, &self.empty, &chunks) * (share / total);
        }
        let [n, length, width] = tokens.dims();
        Ok(tokens.reshape([1, n * length, width]))
    }

    /// The vectors of `chunks`, which are `rows`, when nothing sees the tokens at `place` of them all.
    fn without(
        &self,
        chunks: &[Chunk],
        rows: &Tensor<3>,
        place: Range<usize>,
    ) -> Result<Tensor<3>> {
        let length = self.length();
        let (mut ids, mut hidden, mut parts) = (Vec::new(), Vec::new(), Vec::new());
        for (k, chunk) in chunks.iter().enumerate() {
            // The tokens at a chunk's ends stay.
            let hides = |at: usize| at > 0 && at < length - 1 && place.contains(&(k * length + at));
            let hides: Vec<bool> = (0..length).map(hides).collect();
            let changes = hides.contains(&true);
            parts.push(match changes {
                true => None,
                false => Some(rows.clone().narrow(0, k, 1)),
            });
            if changes {
                ids.push(chunk.ids.clone());
                hidden.push(hides);
            }
        }
        let changed = self.encoder.rows_hiding(&ids, &hidden, self.skip)?;
        let mut numbers = 0..;
        let parts = parts.into_iter().map(|part| {
            let mut number = || numbers.next().unwrap_or_default();
            part.unwrap_or_else(|| changed.clone().narrow(0, number(), 1))
        });
        Ok(Tensor::cat(parts.collect(), 0))
    }

    /// `all` with the empty chunk behind shorter ones.
    fn of_one_length(&self, all: Vec<Tensor<3>>) -> Vec<Tensor<3>> {
        let most = all.iter().map(|tokens| tokens.dims()[1]).max();
        let lengthened = |tokens| self.lengthened(tokens, most.unwrap_or_default());
        all.into_iter().map(lengthened).collect()
    }

    fn lengthened(&self, tokens: Tensor<3>, length: usize) -> Tensor<3> {
        let missing = (length - tokens.dims()[1]) / self.length();
        let empty = std::iter::repeat_n(self.empty.clone(), missing);
        Tensor::cat(std::iter::once(tokens).chain(empty).collect(), 1)
    }
}

/// The sum of `all`, each times its weight, which are divided by their sum if it `normalizes`.
fn sum(all: Vec<Tensor<3>>, weights: &[f64], normalizes: bool) -> Tensor<3> {
    let total = if normalizes {
        weights.iter().sum()
    } else {
        1.0
    };
    let shares: Vec<f64> = weights.iter().map(|weight| weight / total).collect();
    match (&all[..], &shares[..]) {
        ([only], [1.0]) => only.clone(),
        _ => {
            let all = all.into_iter().zip(shares);
            let all = all.map(|(one, share)| (one * share).unsqueeze::<4>());
            Tensor::cat(all.collect(), 0).sum_dim(0).squeeze_dim(0)
        }
    }
}

/// The chunks of weighted pieces, at least one, and where each piece's tokens are in all of them.
fn chunks(
    tokenizer: &ClipTokenizer,
    pieces: &[Weighted],
) -> Result<(Vec<Chunk>, Vec<Range<usize>>)> {
    let (mut ids, mut weights, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for piece in pieces {
        ids.extend(tokenizer.words(&piece.text)?);
        weights.resize(ids.len(), piece.weight);
        ends.push(ids.len());
    }
    let length = tokenizer.max_length();
    let (mut chunks, mut places) = (Vec::new(), Vec::with_capacity(ids.len()));
    let mut rest = 0;
    loop {
        let end = rest + split(tokenizer, &ids[rest..], length - 2);
        places.extend((0..end - rest).map(|k| chunks.len() * length + 1 + k));
        chunks.push(Chunk::new(tokenizer, &ids[rest..end], &weights[rest..end]));
        check_length(chunks.len())?;
        rest = end;
        if rest == ids.len() {
            break;
        }
    }
    let mut start = 0;
    let place = |end: usize| {
        let of = &places[start..end];
        start = end;
        match of {
            [] => 0..0,
            [first, .., last] => *first..last + 1,
            [only] => *only..only + 1,
        }
    };
    Ok((chunks, ends.into_iter().map(place).collect()))
}

/// Number of tokens of the next chunk: up to the last end of a sentence that fits, else of a phrase,
/// else of a word.
fn split(tokenizer: &ClipTokenizer, ids: &[u32], room: usize) -> usize {
    if ids.len() <= room {
        return ids.len();
    }
    let tokens = ids[..room]
        .iter()
        .map(|id| tokenizer.token_of(*id).unwrap_or_default());
    let tokens: Vec<String> = tokens.collect();
    let ends: [fn(&str) -> bool; 3] = [
        |token| token == ".</w>",
        |token| [".</w>", ",</w>", ";</w>", ":</w>"].contains(&token),
        |token| token.ends_with("</w>"),
    ];
    let last = |is_end: &fn(&str) -> bool| tokens.iter().rposition(|token| is_end(token));
    ends.iter().find_map(last).map_or(room, |at| at + 1)
}
