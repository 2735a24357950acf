/// Text that says what a picture should show, or should not.
///
/// ```
/// use sd_core::Prompt;
///
/// let prompt = Prompt::from("a lighthouse in a storm");
/// assert_eq!(prompt.text, "a lighthouse in a storm");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct Prompt {
    /// The text, for all text encoders of a model.
    pub text: String,
    /// Text for the second encoder of a model that has two (SDXL), where it is not the same.
    pub second: Option<String>,
}

impl Prompt {
    /// A prompt of `text` for all encoders.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            second: None,
        }
    }

    /// Sets the second encoder's text.
    pub fn with_second(mut self, text: impl Into<String>) -> Self {
        self.second = Some(text.into());
        self
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&String> for Prompt {
    fn from(text: &String) -> Self {
        Self::new(text)
    }
}

impl std::fmt::Display for Prompt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}
