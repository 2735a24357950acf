/// Choice of the hidden state that becomes a prompt's embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClipReading {
    /// Layers left out at the end of the model.
    pub skipped: usize,
    /// `true` when the final layer norm is applied to what is read.
    pub normalized: bool,
}

impl ClipReading {
    /// The last layer's output behind the final layer norm: Stable Diffusion 1 and 2.
    pub const LAST: Self = Self {
        skipped: 0,
        normalized: true,
    };

    /// The last layer's input as it is, transformers' `hidden_states[-2]`: SDXL.
    pub const PENULTIMATE: Self = Self {
        skipped: 1,
        normalized: false,
    };
}

impl Default for ClipReading {
    fn default() -> Self {
        Self::LAST
    }
}
