use crate::{Resident, Result, TextEmbedding};

/// Turns prompts into the embeddings that steer a [`Denoiser`](crate::Denoiser).
///
/// Text goes in, not token ids: tokenizing, padding, truncation and chunking are the encoder's
/// business, so that an encoder with another vocabulary, or two encoders side by side as in
/// SDXL, is still one `TextEncoder`.
pub trait TextEncoder: Send + Sync {
    /// Encodes `n` prompts at once; the result's tensors have `n` rows, in the prompts' order.
    ///
    /// All prompts of one call come back with the same number of tokens. Text that does not fit
    /// is cut and reported in [`TextEmbedding::cut`], never silently.
    ///
    /// # Errors
    /// Whatever keeps the encoder from producing an embedding; an empty prompt is not an error.
    fn encode(&self, prompts: &[&str]) -> Result<TextEmbedding>;

    /// How to know of the memory it takes and to have a say in it. The default, `None`: it holds
    /// nothing worth knowing of.
    fn resident(&self) -> Option<&dyn Resident> {
        None
    }
}
