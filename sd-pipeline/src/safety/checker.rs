use image::RgbImage;

use crate::{Component, Result, Slot};

/// Judge of pictures before a run hands them out.
///
/// It sees the very pixels that are handed out, after everything else that is done to them. A
/// program's own is assigned to a pipeline:
///
/// ```
/// use sd_pipeline::{Result, RgbImage, SafetyChecker, Verdict};
///
/// /// Flags what is mostly red.
/// struct NoRed;
///
/// impl SafetyChecker for NoRed {
///     fn check(&self, picture: &RgbImage) -> Result<Verdict> {
///         let red = picture.pixels().filter(|p| p[0] > 128 && p[1].max(p[2]) < 64).count();
///         let share = red as f32 / picture.pixels().len() as f32;
///         Ok(Verdict::new(share > 0.5).with("red", share - 0.5))
///     }
/// }
///
/// # fn assign(pipeline: &mut sd_pipeline::Pipeline) {
/// pipeline.safety_checker = Some(NoRed.into());
/// # }
/// ```
pub trait SafetyChecker: Send + Sync {
    /// The verdict on `picture`.
    ///
    /// # Errors
    /// Whatever keeps it from a verdict: no picture is handed out then.
    fn check(&self, picture: &RgbImage) -> Result<Verdict>;
}

/// Verdict of a [`SafetyChecker`] on one picture.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Verdict {
    /// `true` of a picture that must not be shown.
    pub flagged: bool,
    /// All that was looked for.
    pub concepts: Vec<Concept>,
}

/// Something that a picture was searched for.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Concept {
    /// Its name; of diffusers' checker, which keeps them secret, a number.
    pub name: String,
    /// The measure by which the picture shows too much of it: above 0 it does.
    pub score: f32,
}

impl Verdict {
    /// A verdict without reasons.
    pub fn new(flagged: bool) -> Self {
        Self {
            flagged,
            concepts: Vec::new(),
        }
    }

    /// The same with the score of a concept.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, score: f32) -> Self {
        let name = name.into();
        self.concepts.push(Concept { name, score });
        self
    }

    /// The concepts of which the picture shows too much.
    pub fn found(&self) -> impl Iterator<Item = &Concept> {
        self.concepts.iter().filter(|concept| concept.score > 0.0)
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.flagged { "flagged" } else { "passed" })?;
        for (k, Concept { name, score }) in self.found().enumerate() {
            let before = if k == 0 { ": " } else { ", " };
            write!(f, "{before}{name} by {score:.3}")?;
        }
        Ok(())
    }
}

/// Fate of a picture that a [`SafetyChecker`] flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum OnFlagged {
    /// Handed out as it is; its verdict says the rest.
    Flag,
    /// Handed out as blotches of colour.
    Blur,
    /// Handed out black, as diffusers does.
    #[default]
    Black,
    /// An error, [`Error::Flagged`](crate::Error::Flagged), instead of all of the run's pictures.
    Refuse,
}

impl Component for dyn SafetyChecker {
    type Spec = ();

    fn facts(&self) -> &() {
        &()
    }
}

impl<C: SafetyChecker + 'static> From<C> for Slot<dyn SafetyChecker> {
    fn from(checker: C) -> Self {
        Self::new(std::sync::Arc::new(checker))
    }
}
