//! Chunks and emphasis of A1111's webui (`modules/sd_hijack_clip.py`, `modules/sd_emphasis.py`).

use burn::tensor::{Tensor, TensorData};
use sd_core::{Emphasis, Result, TextEmbedding};
use sd_prompts::a1111::{is_break, weights};

use super::super::ClipTextEncoder;
use super::chunk::Chunk;
use super::{check_length, unreadable};
use crate::ClipTokenizer;

/// Tokens behind a comma that may move to the next chunk (`comma_padding_backtrack`).
const BACKTRACK: usize = 20;

/// All of `texts` with as many chunks as the longest has; shorter ones end in empty chunks.
pub(super) fn embed(
    encoder: &ClipTextEncoder,
    texts: &[&str],
    skip: usize,
    emphasis: Emphasis,
) -> Result<TextEmbedding> {
    let tokenizer = encoder.tokenizer();
    let lines = texts.iter().map(|text| chunks(tokenizer, text));
    let lines = lines.collect::<Result<Vec<_>>>()?;
    let count = lines.iter().map(Vec::len).max().unwrap_or(1);
    let n = lines.len();
    let empty = Chunk::empty(tokenizer);
    // Number `k` of every text, then number `k + 1`.
    let number = |k: usize| lines.iter().map(move |line| line.get(k));
    let all = (0..count).flat_map(number);
    let all: Vec<Chunk> = all.map(|chunk| chunk.unwrap_or(&empty).clone()).collect();
    let rows = encoder.rows(&all, skip)?;
    let parts = all.chunks(n).enumerate().map(|(k, chunks)| {
        let tokens = rows.range(k * n, n).tokens;
        emphasized(tokens, chunks, emphasis)
    });
    let embedding = TextEmbedding::new(Tensor::cat(parts.collect(), 1));
    Ok(match rows.range(0, n).pooled {
        Some(pooled) => embedding.with_pooled(pooled),
        None => embedding,
    })
}

/// The vectors `[n, tokens, width]` of as many `chunks`, weighted.
fn emphasized(tokens: Tensor<3>, chunks: &[Chunk], emphasis: Emphasis) -> Tensor<3> {
    if emphasis == Emphasis::Ignore || !chunks.iter().any(Chunk::is_weighted) {
        return tokens;
    }
    let [n, length, _] = tokens.dims();
    let weights = chunks.iter().flat_map(|chunk| &chunk.weights);
    let weights: Vec<f32> = weights.map(|weight| *weight as f32).collect();
    let data = TensorData::new(weights, [n, length, 1]);
    let weights = Tensor::from_data(data, (&tokens.device(), tokens.dtype()));
    let weighted = tokens.clone() * weights;
    match emphasis {
        Emphasis::Original => {
            // Of the whole batch, padding included.
            let restored = tokens.mean() / weighted.clone().mean();
            weighted * restored.reshape([1, 1, 1])
        }
        _ => weighted,
    }
}

/// The chunks of a text, at least one.
fn chunks(tokenizer: &ClipTokenizer, text: &str) -> Result<Vec<Chunk>> {
    let mut writer = Writer {
        tokenizer,
        room: tokenizer.max_length() - 2,
        chunks: Vec::new(),
        ids: Vec::new(),
        weights: Vec::new(),
        comma: None,
    };
    let comma = tokenizer.id_of(",</w>");
    for piece in weights(text).map_err(unreadable)? {
        if is_break(&piece) {
            writer.end()?;
            continue;
        }
        for id in tokenizer.words(&piece.text)? {
            writer.push(id, piece.weight, Some(id) == comma)?;
        }
    }
    if !writer.ids.is_empty() || writer.chunks.is_empty() {
        writer.end()?;
    }
    Ok(writer.chunks)
}

struct Writer<'a> {
    tokenizer: &'a ClipTokenizer,
    /// Tokens of a text that fit into a chunk.
    room: usize,
    chunks: Vec<Chunk>,
    ids: Vec<u32>,
    weights: Vec<f64>,
    /// The last comma in the chunk being written.
    comma: Option<usize>,
}

impl Writer<'_> {
    fn push(&mut self, id: u32, weight: f64, is_comma: bool) -> Result<()> {
        let full = self.ids.len() == self.room;
        if is_comma {
            self.comma = Some(self.ids.len());
        } else if full
            && let Some(comma) = self.comma
            && self.ids.len() - comma <= BACKTRACK
        {
            let ids = self.ids.split_off(comma + 1);
            let weights = self.weights.split_off(comma + 1);
            self.end()?;
            (self.ids, self.weights) = (ids, weights);
        }
        if self.ids.len() == self.room {
            self.end()?;
        }
        self.ids.push(id);
        self.weights.push(weight);
        Ok(())
    }

    /// Ends the chunk that is being written.
    fn end(&mut self) -> Result<()> {
        let (mut ids, mut weights) = (
            std::mem::take(&mut self.ids),
            std::mem::take(&mut self.weights),
        );
        // Where padding is another token, all behind the first end token is padding, whatever it
        // was.
        let frame = self.tokenizer.frame();
        weights.resize(self.room, 1.0);
        ids.resize(self.room, frame.end);
        let mut chunk = Chunk::new(self.tokenizer, &ids, &weights);
        if let Some(end) = chunk.ids.iter().position(|id| *id == frame.end)
            && frame.pad != frame.end
        {
            chunk.ids[end + 1..].fill(frame.pad);
        }
        self.chunks.push(chunk);
        self.comma = None;
        check_length(self.chunks.len())
    }
}
