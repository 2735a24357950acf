/// Part of a prompt that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {position} of the prompt, {found:?}: {expected}")]
#[non_exhaustive]
pub struct SyntaxError {
    /// Number of the character at which it begins, from 0.
    pub position: usize,
    /// The text there, its beginning.
    pub found: String,
    /// What would be right.
    pub expected: String,
}

/// Characters of the prompt that an error shows.
const SHOWN: usize = 24;

impl SyntaxError {
    /// An error at byte `at` of `text`.
    pub(crate) fn new(text: &str, at: usize, expected: impl Into<String>) -> Self {
        let at = text.floor_char_boundary(at);
        Self {
            position: text[..at].chars().count(),
            found: text[at..].chars().take(SHOWN).collect(),
            expected: expected.into(),
        }
    }
}
