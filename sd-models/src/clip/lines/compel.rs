use sd_core::{Error, Result, TextEmbedding};

use super::super::ClipTextEncoder;

pub(super) fn embed(
    _: &ClipTextEncoder,
    _: &[&str],
    _: usize,
) -> Result<TextEmbedding> {
    Err(Error::Unsupported("compel".into()))
}
