use std::fmt::{Display, Formatter};
use std::str::FromStr;

use crate::Error;

/// Grammar that a [`Prompt`](crate::Prompt) is written in, and with it the ways of the program that
/// the grammar is of: what a weight does, and what becomes of a text that is too long.
///
/// It has a name, "a1111:no norm", by which it is displayed and parsed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Syntax {
    /// The text as it is; what does not fit is cut and reported, as by diffusers.
    #[default]
    Plain,
    /// That of A1111's webui.
    A1111(Emphasis),
    /// That of ComfyUI.
    #[cfg_attr(feature = "serde", serde(rename = "comfyui"))]
    ComfyUi,
    /// That of the package compel, with what `CompelForSD` and `CompelForSDXL` set.
    Compel,
}

/// What A1111 makes of a weight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Emphasis {
    /// "Original": vectors are multiplied, and all of a chunk then scaled to the mean that they had.
    #[default]
    Original,
    /// "No norm": vectors are multiplied.
    NoNorm,
    /// "Ignore": weights are read and nothing is done.
    Ignore,
}

impl Syntax {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Plain,
        Self::A1111(Emphasis::Original),
        Self::A1111(Emphasis::NoNorm),
        Self::A1111(Emphasis::Ignore),
        Self::ComfyUi,
        Self::Compel,
    ];

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::A1111(Emphasis::Original) => "a1111",
            Self::A1111(Emphasis::NoNorm) => "a1111:no norm",
            Self::A1111(Emphasis::Ignore) => "a1111:ignore",
            Self::ComfyUi => "comfyui",
            Self::Compel => "compel",
        }
    }

    /// `true` where a prompt and its negative prompt are encoded in one call and come back equally
    /// long: cut to one length, or padded to it (compel). A1111 and ComfyUI encode each by itself,
    /// and evaluate the network on each by itself where their lengths differ.
    pub fn encodes_together(self) -> bool {
        matches!(self, Self::Plain | Self::Compel)
    }
}

impl Display for Syntax {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Syntax {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let mut all = Self::ALL.into_iter();
        all.find(|syntax| syntax.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::invalid("syntax", name, format!("expected one of {names}"))
        })
    }
}
