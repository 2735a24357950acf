use crate::ClipTokenizer;

/// As many tokens as the model takes at once, and their weights.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) ids: Vec<u32>,
    pub(super) weights: Vec<f64>,
}

impl Chunk {
    /// The start token, `ids`, which are at most as many as there is room for, the end token and
    /// padding. What is not of the text has weight 1.
    pub(super) fn new(tokenizer: &ClipTokenizer, ids: &[u32], weights: &[f64]) -> Self {
        let (frame, length) = (tokenizer.frame(), tokenizer.max_length());
        let mut chunk = Self {
            ids: [&[frame.start], ids, &[frame.end]].concat(),
            weights: [&[1.0], weights, &[1.0]].concat(),
        };
        chunk.ids.resize(length, frame.pad);
        chunk.weights.resize(length, 1.0);
        chunk
    }

    /// A chunk without text.
    pub(super) fn empty(tokenizer: &ClipTokenizer) -> Self {
        Self::new(tokenizer, &[], &[])
    }

    /// `true` where a weight changes something.
    pub(super) fn is_weighted(&self) -> bool {
        self.weights.iter().any(|weight| *weight != 1.0)
    }
}
