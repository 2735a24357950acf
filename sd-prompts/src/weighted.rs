/// Piece of a prompt with its weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighted {
    /// The text, as it goes to the tokenizer.
    pub text: String,
    /// Its weight; 1 is none.
    pub weight: f64,
}

impl Weighted {
    /// `text` at `weight`.
    pub fn new(text: impl Into<String>, weight: f64) -> Self {
        Self {
            text: text.into(),
            weight,
        }
    }
}
