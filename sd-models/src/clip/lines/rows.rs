use std::collections::HashMap;

use burn::tensor::{Int, Tensor, TensorData};
use sd_core::{Error, Result};

use super::super::ClipTextEncoder;
use super::chunk::Chunk;

/// Chunks that go through the model at once: each keeps all layers' outputs until its end.
const AT_ONCE: usize = 8;

/// Vectors of chunks, a row for each.
pub(super) struct Rows {
    /// `[n, tokens, width]`
    pub(super) tokens: Tensor<3>,
    /// `[n, width]`, where the model has a projection.
    pub(super) pooled: Option<Tensor<2>>,
}

impl Rows {
    /// The rows from `start` on, `count` of them.
    pub(super) fn range(&self, start: usize, count: usize) -> Self {
        let pooled = self.pooled.clone();
        Self {
            tokens: self.tokens.clone().narrow(0, start, count),
            pooled: pooled.map(|pooled| pooled.narrow(0, start, count)),
        }
    }
}

impl ClipTextEncoder {
    /// The vectors of `chunks`, with `skip` layers more left out than the encoder leaves out anyway.
    /// Equal chunks are computed once.
    pub(super) fn rows(&self, chunks: &[Chunk], skip: usize) -> Result<Rows> {
        let ids = chunks.iter().map(|chunk| chunk.ids.clone());
        self.rows_of(&ids.collect::<Vec<_>>(), skip)
    }

    /// As [`rows`](Self::rows), from ids.
    pub(super) fn rows_of(&self, ids: &[Vec<u32>], skip: usize) -> Result<Rows> {
        let mut distinct: Vec<Vec<u32>> = Vec::new();
        let mut numbers = HashMap::new();
        let number = |ids: &Vec<u32>| {
            *numbers.entry(ids.clone()).or_insert_with(|| {
                distinct.push(ids.clone());
                distinct.len() as i32 - 1
            })
        };
        let indices: Vec<i32> = ids.iter().map(number).collect();
        let parts = distinct
            .chunks(AT_ONCE)
            .map(|ids| self.pass(ids, None, skip));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let (tokens, pooled): (Vec<_>, Vec<_>) = parts
            .into_iter()
            .map(|part| (part.tokens, part.pooled))
            .unzip();
        let pooled: Option<Vec<_>> = pooled.into_iter().collect();
        let rows = Rows {
            tokens: joined(tokens),
            pooled: pooled.map(joined),
        };
        if indices.len() == distinct.len() {
            return Ok(rows);
        }
        let data = TensorData::new(indices, [ids.len()]);
        let indices = Tensor::<1, Int>::from_data(data, &rows.tokens.device());
        Ok(Rows {
            tokens: rows.tokens.select(0, indices.clone()),
            pooled: rows.pooled.map(|pooled| pooled.select(0, indices)),
        })
    }

    /// The vectors of each of `ids` with some of their tokens hidden from all.
    pub(super) fn rows_hiding(
        &self,
        ids: &[Vec<u32>],
        hidden: &[Vec<bool>],
        skip: usize,
    ) -> Result<Tensor<3>> {
        let parts = ids.chunks(AT_ONCE).zip(hidden.chunks(AT_ONCE));
        let parts = parts.map(|(ids, hidden)| Ok(self.pass(ids, Some(hidden), skip)?.tokens));
        Ok(joined(parts.collect::<Result<Vec<_>>>()?))
    }

    fn pass(&self, ids: &[Vec<u32>], hidden: Option<&[Vec<bool>]>, skip: usize) -> Result<Rows> {
        let (model, reading) = (self.model(), self.reading());
        let config = model.config();
        let layers = config.num_hidden_layers;
        let most = layers - 1 - reading.skipped;
        if skip > most {
            let expected = format!("expected at most {most}");
            return Err(Error::invalid("clip_skip", skip, expected));
        }
        let read = layers - reading.skipped - skip;
        // What is hidden changes no pooled vector that anybody reads.
        let pools = config.projection.is_some() && hidden.is_none();
        let needed = if pools { layers } else { read };
        let mut states = match hidden {
            Some(hidden) => model.hidden_states_hiding(ids, hidden, needed)?,
            None => model.hidden_states(ids, needed)?,
        };
        let pooled = pools.then(|| {
            let last = model.normalize(states[layers].clone());
            model.pool(ids, &last)
        });
        let tokens = states.swap_remove(read);
        let tokens = match reading.normalized {
            true => model.normalize(tokens),
            false => tokens,
        };
        Ok(Rows { tokens, pooled })
    }
}

fn joined<const D: usize>(mut parts: Vec<Tensor<D>>) -> Tensor<D> {
    match parts.len() {
        1 => parts.swap_remove(0),
        _ => Tensor::cat(parts, 0),
    }
}
