use std::fmt::{self, Display};
use std::io;
use std::path::PathBuf;

use crate::FileKind;

/// Result of loading a model.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be loaded. Every message names the file and what would be right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be read, or is not there.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// A file that is not the JSON it should be: cut short, nested too deeply, of other types.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Place and kind of the fault.
        source: serde_json::Error,
    },
    /// A setting of a model's configuration that is out of range or missing.
    #[error("{}: {field} is {value}; {expected}", file.display())]
    Config {
        /// The configuration file.
        file: PathBuf,
        /// The setting's name in that file.
        field: String,
        /// Its value.
        value: String,
        /// Values that would be right.
        expected: String,
    },
    /// A link to a file that is not there: a hub cache's folder that was copied without what its
    /// links lead to, a download that was interrupted.
    #[error("{}: a link to {}, which is not there", path.display(), target.display())]
    BrokenLink {
        /// The link.
        path: PathBuf,
        /// The path it leads to, as it is written in the link.
        target: PathBuf,
    },
    /// A file that is elsewhere, see [`Files::remote`](crate::Files::remote), and could not be
    /// brought here.
    #[error("{}: {source}", path.display())]
    Remote {
        /// The place it would come to.
        path: PathBuf,
        /// The words of whoever brings it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of another kind than its name promises.
    #[error("{}: {found}; expected {expected}", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// Its kind.
        found: FileKind,
        /// The kind that would be right.
        expected: &'static str,
    },
    /// A sound file of weights that holds something else than it was opened as.
    #[error("{}: {found}; expected {expected}", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A folder without the weights of a model, or without those of the variant asked for.
    #[error("{}: no weights, {}", folder.display(), Absent { tried, variants, others })]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// The file names that would have been taken.
        tried: Vec<String>,
        /// Variants of the weights that are there and can be asked for.
        variants: Vec<String>,
        /// Other files of the folder that look like weights.
        others: Vec<String>,
    },
    /// A safetensors file that is damaged or not one at all.
    #[error("{}: not a sound safetensors file: {reason}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },
    /// A PyTorch checkpoint that is damaged, or not one at all.
    #[error("{}: not a sound PyTorch checkpoint: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },
    /// A PyTorch checkpoint that asks for something to be run that makes no tensor. Nothing of it
    /// was.
    #[error("{}: refused, as nothing that a file names is ever run: {what}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The opcode, and the class or function that it would call.
        what: String,
    },
    /// An adapter that cannot be merged into a model: one of its modules, or all of it.
    #[error("{}: {reason}", path.display())]
    Adapter {
        /// The file.
        path: PathBuf,
        /// The module, its fault and what would be right.
        reason: String,
    },
    /// A GGUF file that is damaged.
    #[error("{}: not a sound GGUF file: {reason}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },
    /// Weights that are not those of the model they should go into.
    #[error("{}: {mismatch}", path.display())]
    Tensors {
        /// The file, or the index of a sharded one.
        path: PathBuf,
        /// The tensors that do not fit.
        mismatch: Box<TensorMismatch>,
    },
    /// Tokenizer files that do not make a tokenizer.
    #[error("{}: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },
    /// Weights that the kernels cannot hold: there is not memory enough.
    #[error("the weights cannot be packed: {0}")]
    Packing(#[from] sd_kernels::Error),
    /// Values that are too large for the number type they should be written in. Nothing is written
    /// then: a network with one infinite weight draws nothing.
    #[error(
        "{}: {} too large for {dtype}: {}; BF16 and F32 hold them",
        path.display(),
        count(tensors),
        listed(tensors)
    )]
    Overflow {
        /// The file that would have been written.
        path: PathBuf,
        /// The number type.
        dtype: &'static str,
        /// Names of the tensors, and the number of such values in each.
        tensors: Vec<(String, u64)>,
    },
    /// Something a file asks for that is not implemented.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The file that asks for it.
        path: PathBuf,
        /// The setting that is not supported, and those that are.
        what: String,
    },
}

impl Error {
    /// An [`Error::Io`], or the [`Error::BrokenLink`] that caused it.
    pub(crate) fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match std::fs::read_link(&path) {
            Ok(target) if source.kind() == io::ErrorKind::NotFound => {
                Self::BrokenLink { path, target }
            }
            _ => Self::Io { path, source },
        }
    }

    /// An [`Error::Config`]: in `file`, `field` is `value`; `expected`.
    pub fn config(
        file: impl Into<PathBuf>,
        field: impl Into<String>,
        value: impl Display,
        expected: impl Display,
    ) -> Self {
        Self::Config {
            file: file.into(),
            field: field.into(),
            value: value.to_string(),
            expected: expected.to_string(),
        }
    }

    /// An [`Error::Safetensors`]: what is wrong with the file `path`.
    pub fn safetensors(path: impl Into<PathBuf>, reason: impl Display) -> Self {
        Self::Safetensors {
            path: path.into(),
            reason: reason.to_string(),
        }
    }

    /// An [`Error::Checkpoint`]: what is wrong with the file `path`.
    pub(crate) fn checkpoint(path: impl Into<PathBuf>, reason: impl Display) -> Self {
        Self::Checkpoint {
            path: path.into(),
            reason: reason.to_string(),
        }
    }

    /// An [`Error::Gguf`]: what is wrong with the file `path`.
    pub(crate) fn gguf(path: impl Into<PathBuf>, reason: impl Display) -> Self {
        Self::Gguf {
            path: path.into(),
            reason: reason.to_string(),
        }
    }

    /// An [`Error::Tokenizer`]: what is wrong with the file `path`.
    pub fn tokenizer(path: impl Into<PathBuf>, reason: impl Display) -> Self {
        Self::Tokenizer {
            path: path.into(),
            reason: reason.to_string(),
        }
    }
}

impl From<Error> for sd_core::Error {
    fn from(error: Error) -> Self {
        Self::Other(Box::new(error))
    }
}

/// Weights that are not there, and what is there instead.
struct Absent<'a> {
    tried: &'a [String],
    variants: &'a [String],
    others: &'a [String],
}

impl Display for Absent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected one of {}", self.tried.join(", "))?;
        if !self.variants.is_empty() {
            let variants = self.variants.join(", ");
            write!(f, "; variants that can be asked for: {variants}")?;
        }
        if !self.others.is_empty() {
            write!(f, "; there is {}", first_ten(self.others))?;
        }
        Ok(())
    }
}

/// Differences between a file's tensors and a model's parameters. The names are the model's, sorted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TensorMismatch {
    /// Parameters the file has no tensor for.
    pub missing: Vec<String>,
    /// Tensors the model has no parameter for.
    pub unused: Vec<String>,
    /// Tensors of another shape than their parameter.
    pub misshapen: Vec<Misshapen>,
}

/// A tensor of another shape than the parameter it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct Misshapen {
    /// The parameter's name.
    pub name: String,
    /// The tensor's shape.
    pub found: Vec<usize>,
    /// The parameter's shape.
    pub expected: Vec<usize>,
}

impl TensorMismatch {
    /// `true` when everything fits.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unused.is_empty() && self.misshapen.is_empty()
    }
}

impl Display for Misshapen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, found, expected) = (&self.name, &self.found, &self.expected);
        write!(f, "{name} is {found:?} and should be {expected:?}")
    }
}

impl Display for TensorMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("missing", first_ten(&self.missing), self.missing.len()),
            ("unused", first_ten(&self.unused), self.unused.len()),
            (
                "misshapen",
                first_ten(&self.misshapen),
                self.misshapen.len(),
            ),
        ];
        let parts = parts.iter().filter(|(_, _, count)| *count > 0);
        let parts: Vec<String> = parts
            .map(|(what, names, count)| format!("{count} {what}: {names}"))
            .collect();
        write!(f, "the tensors are not this model's ({})", parts.join("; "))
    }
}

fn count(tensors: &[(String, u64)]) -> String {
    match tensors.iter().map(|(_, count)| count).sum() {
        1_u64 => "1 value is".into(),
        count => format!("{count} values are"),
    }
}

fn listed(tensors: &[(String, u64)]) -> String {
    let named = tensors
        .iter()
        .map(|(name, count)| format!("{name} ({count})"));
    first_ten(&named.collect::<Vec<_>>())
}

/// The whole list of a wrong file's thousand tensors helps nobody.
fn first_ten<T: Display>(items: &[T]) -> String {
    let shown: Vec<String> = items.iter().take(10).map(ToString::to_string).collect();
    let more = if items.len() > 10 { ", …" } else { "" };
    shown.join(", ") + more
}
