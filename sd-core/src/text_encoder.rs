use crate::{Extensions, Prompt, Result, TextEmbedding};

/// Turns prompts into the embeddings that steer a [`Denoiser`](crate::Denoiser).
///
/// Text goes in, not token ids: tokenizing, padding, truncation and chunking are the encoder's
/// business, so that an encoder with another vocabulary, or two encoders side by side as in
/// SDXL, is still one `TextEncoder`.
pub trait TextEncoder: Send + Sync {
    /// Encodes `n` prompts at once; the result's tensors have `n` rows, in the prompts' order.
    ///
    /// All prompts of one call come back with the same number of tokens. Text that does not fit
    /// is cut and reported in [`TextEmbedding::truncated`], never silently.
    ///
    /// A prompt is read in its [`Syntax`](crate::Syntax). Of A1111's an encoder reads weights and
    /// `BREAK`: parts and schedules, which change with the step, are a run's, which has each of their
    /// texts encoded. The prompts of one call are one batch then, whose mean A1111 restores.
    ///
    /// # Errors
    /// Whatever keeps the encoder from producing an embedding, and a part of a prompt that it does
    /// not read, such as a second text for one encoder, or that is not in its syntax; an empty prompt is not an error.
    fn encode(&self, prompts: &[Prompt]) -> Result<TextEmbedding>;

    /// Stand-in for a negative prompt that was not given, which need not be an empty one. The
    /// default is the empty prompt's embedding.
    fn absent(&self) -> AbsentPrompt {
        AbsentPrompt::Empty
    }

    /// This encoder as `told` says, out of which it takes what it reads: an adapter's changes. It
    /// shares its weights with this one. `None`, the default, where it reads nothing of it.
    ///
    /// # Errors
    /// Those of parts that do not fit it.
    fn told(&self, told: &mut Extensions) -> Result<Option<Box<dyn TextEncoder>>> {
        let _ = told;
        Ok(None)
    }
}

/// Stand-in of a text encoder for a prompt that was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AbsentPrompt {
    /// The embedding of the empty prompt.
    #[default]
    Empty,
    /// Zeros (SDXL's `force_zeros_for_empty_prompt`).
    Zeros,
}
