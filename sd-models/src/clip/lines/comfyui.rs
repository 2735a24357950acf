//! Chunks and weights of ComfyUI (`comfy/sd1_clip.py`).

use burn::tensor::{Tensor, TensorData};
use sd_core::{Error, Result, TextEmbedding};
use sd_prompts::comfyui::{Part, parts, weights};

use super::super::ClipTextEncoder;
use super::chunk::Chunk;
use super::{check_length, unreadable};
use crate::ClipTokenizer;

/// Tokens from which on a piece may be cut by the end of a chunk.
const LARGE: usize = 8;

pub(super) fn embed(
    encoder: &ClipTextEncoder,
    texts: &[&str],
    skip: usize,
) -> Result<TextEmbedding> {
    let tokenizer = encoder.tokenizer();
    let lines = texts.iter().map(|text| chunks(tokenizer, text));
    let lines = lines.collect::<Result<Vec<_>>>()?;
    let count = lines.iter().map(Vec::len).max().unwrap_or(1);
    let empty = Chunk::empty(tokenizer);
    let filled = |line: &Vec<Chunk>| {
        let mut line = line.clone();
        line.resize(count, empty.clone());
        line
    };
    let mut all: Vec<Chunk> = lines.iter().flat_map(filled).collect();
    let n = lines.len();
    let weighted = all.iter().any(Chunk::is_weighted);
    if weighted {
        all.push(empty);
    }
    let rows = encoder.rows(&all, skip)?;
    let mut tokens = rows.range(0, n * count).tokens;
    if weighted {
        let empty = rows.range(n * count, 1).tokens;
        tokens = interpolated(tokens, &empty, &all[..n * count]);
    }
    let [_, length, width] = tokens.dims();
    let embedding = TextEmbedding::new(tokens.reshape([n, count * length, width]));
    Ok(match rows.pooled {
        Some(pooled) => {
            let first = (0..n).map(|k| pooled.clone().narrow(0, k * count, 1));
            embedding.with_pooled(Tensor::cat(first.collect(), 0))
        }
        None => embedding,
    })
}

/// The vectors `[n, tokens, width]` of as many `chunks`, each as far from that of the `empty` prompt at
/// its place as its weight says.
pub(super) fn interpolated(tokens: Tensor<3>, empty: &Tensor<3>, chunks: &[Chunk]) -> Tensor<3> {
    let [n, length, _] = tokens.dims();
    let more = chunks.iter().flat_map(|chunk| &chunk.weights);
    let more: Vec<f32> = more.map(|weight| (*weight - 1.0) as f32).collect();
    let data = TensorData::new(more, [n, length, 1]);
    let more = Tensor::from_data(data, (&tokens.device(), tokens.dtype()));
    // So vectors of weight 1 stay what they are to the last bit.
    tokens.clone() + (tokens - empty.clone()) * more
}

/// Tokens of a piece of text, in groups that ComfyUI tokenizes apart: its words that were learned,
/// `embedding:NAME`, and what is between them.
///
/// # Errors
/// [`Error::InvalidArgument`] for a name that no word has, which ComfyUI leaves out with a warning.
fn groups(tokenizer: &ClipTokenizer, text: &str) -> Result<Vec<Vec<u32>>> {
    // A file may be named whole.
    let name_of = |name: &str| {
        let stem = [".safetensors", ".pt", ".bin"]
            .iter()
            .find_map(|end| name.strip_suffix(end));
        [Some(name), stem]
            .into_iter()
            .flatten()
            .find(|name| tokenizer.is_taught(name))
            .map(String::from)
    };
    let mut groups = Vec::new();
    for part in parts(text, |name| name_of(name).is_some()) {
        let group = match part {
            Part::Text(text) => tokenizer.words(&text)?,
            Part::Embedding(name) => match name_of(&name) {
                Some(word) => tokenizer.words(&word)?,
                None => {
                    let expected = "expected the name of a word that was given to the model, a file \
                                    of textual inversion";
                    return Err(Error::invalid("embedding", name, expected));
                }
            },
        };
        groups.push(group);
    }
    Ok(groups)
}

/// The chunks of a text, at least one. A piece of fewer than 8 tokens is in one of them.
fn chunks(tokenizer: &ClipTokenizer, text: &str) -> Result<Vec<Chunk>> {
    let room = tokenizer.max_length() - 2;
    let (mut chunks, mut ids, mut of) = (Vec::new(), Vec::new(), Vec::new());
    let mut end = |ids: &mut Vec<u32>, of: &mut Vec<f64>| {
        chunks.push(Chunk::new(tokenizer, ids, of));
        ids.clear();
        of.clear();
        check_length(chunks.len())
    };
    for piece in weights(text).map_err(unreadable)? {
        for words in groups(tokenizer, &piece.text)? {
            let mut words = words.as_slice();
            let is_large = words.len() >= LARGE.min(room);
            while !words.is_empty() {
                let free = room - ids.len();
                let fitting = match (words.len() <= free, is_large) {
                    (true, _) => words.len(),
                    (false, true) => free,
                    (false, false) => 0,
                };
                ids.extend(&words[..fitting]);
                of.resize(ids.len(), piece.weight);
                words = &words[fitting..];
                if !words.is_empty() {
                    end(&mut ids, &mut of)?;
                }
            }
        }
    }
    end(&mut ids, &mut of)?;
    Ok(chunks)
}
