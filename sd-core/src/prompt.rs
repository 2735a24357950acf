use crate::Syntax;

/// Text that says what a picture should show, or should not.
///
/// The text is plain unless a [`Syntax`] is named, in which weights, schedules and the like are
/// written as in the program that the syntax is of:
///
/// ```
/// use sd_core::Prompt;
///
/// let prompt = Prompt::from("a lighthouse in a storm");
/// assert_eq!(prompt.text, "a lighthouse in a storm");
/// let prompt = Prompt::a1111("a (lighthouse:1.3) in [calm:storm:0.4]");
/// let prompt = Prompt::comfyui("a (lighthouse:1.3) in a storm");
/// let prompt = Prompt::compel("a lighthouse++ in a storm");
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
    /// Grammar of both texts.
    pub syntax: Syntax,
    /// Layers left out at the end of those that a text encoder reads, diffusers' `clip_skip`. A1111's
    /// "clip skip" counts one more: 2 there is 1 here.
    pub clip_skip: usize,
}

impl Prompt {
    /// A prompt of `text` for all encoders.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    /// A prompt as A1111's webui reads it, with its own emphasis: `(a)`, `[a]`, `(a:1.3)`,
    /// `[a:b:0.5]`, `[a|b]`, `AND`, `BREAK`. Long ones take as many chunks of tokens as they need.
    pub fn a1111(text: impl Into<String>) -> Self {
        Self::new(text).in_syntax(Syntax::A1111(Default::default()))
    }

    /// A prompt as ComfyUI reads it: `(a)`, `(a:1.3)`. Long ones take as many chunks as they need.
    pub fn comfyui(text: impl Into<String>) -> Self {
        Self::new(text).in_syntax(Syntax::ComfyUi)
    }

    /// A prompt as compel reads it: `a++`, `(a b)1.3`, `("a", "b").blend(0.7, 0.3)`,
    /// `("a", "b").and()`. Long ones take as many chunks as they need.
    pub fn compel(text: impl Into<String>) -> Self {
        Self::new(text).in_syntax(Syntax::Compel)
    }

    /// Sets the second encoder's text.
    pub fn with_second(mut self, text: impl Into<String>) -> Self {
        self.second = Some(text.into());
        self
    }

    /// Sets the grammar.
    pub fn in_syntax(mut self, syntax: Syntax) -> Self {
        self.syntax = syntax;
        self
    }

    /// Sets the number of layers left out.
    pub fn with_clip_skip(mut self, layers: usize) -> Self {
        self.clip_skip = layers;
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
