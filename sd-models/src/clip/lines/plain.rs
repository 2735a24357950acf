//! Texts as they are, cut where they do not fit.

use sd_core::{Result, TextEmbedding};

use super::super::ClipTextEncoder;

pub(super) fn embed(
    encoder: &ClipTextEncoder,
    texts: &[&str],
    skip: usize,
) -> Result<TextEmbedding> {
    let tokens = texts.iter().map(|text| encoder.tokenizer().encode(text));
    let tokens = tokens.collect::<crate::Result<Vec<_>>>()?;
    let (ids, truncated): (Vec<_>, Vec<_>) =
        tokens.into_iter().map(|t| (t.ids, t.truncated)).unzip();
    let rows = encoder.rows_of(&ids, skip)?;
    let embedding = TextEmbedding::new(rows.tokens).with_truncated(truncated);
    Ok(match rows.pooled {
        Some(pooled) => embedding.with_pooled(pooled),
        None => embedding,
    })
}
