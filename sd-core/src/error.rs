use std::fmt::Display;

use burn::tensor::DType;

/// The source of an error that comes from a component outside this workspace.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Result of the traits' methods.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Reason why a component could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument outside its range.
    #[error("{name} is {value}; {expected}")]
    InvalidArgument {
        /// The argument's name, as the API spells it.
        name: &'static str,
        /// The value given.
        value: String,
        /// Values that would be right.
        expected: String,
    },
    /// A tensor of another shape than the component works on.
    #[error("{what} has shape {found:?}, expected {expected}")]
    Shape {
        /// The tensor.
        what: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that would be right, in words where a dimension is free.
        expected: String,
    },
    /// A combination of settings that has no meaning or is not implemented.
    #[error("{0}")]
    Unsupported(String),
    /// Conditioning that nothing reads: it would silently do nothing.
    #[error("{reader} does not read {}", parts.join(", "))]
    Unread {
        /// The component that should have read it.
        reader: &'static str,
        /// The parts that it does not read.
        parts: Vec<&'static str>,
    },
    /// A run that was stopped by its [`Cancel`](crate::Cancel).
    #[error("cancelled")]
    Cancelled,
    /// A saved run that does not belong to the sampler that should continue it.
    #[error("the saved run does not fit: {0}")]
    SavedState(String),
    /// The backend failed: out of memory, a lost device, a kernel that could not be launched.
    #[error("the backend failed in {during}: {message}")]
    Backend {
        /// The work that was being done.
        during: &'static str,
        /// The backend's own words.
        message: String,
    },
    /// Work that needs more memory than it may take.
    #[error("{work} needs {needed} bytes, {limit} is {allowed}")]
    Memory {
        /// The work, in the way that needs least.
        work: String,
        /// The limit's name.
        limit: &'static str,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that it may take.
        allowed: u64,
    },
    /// Values that are NaN or infinite, where the first of them are.
    #[error("{component} made NaN or infinite values{}; {}", place(*step), remedy(*dtype))]
    NotFinite {
        /// The component that made them.
        component: &'static str,
        /// The run's step, from 1, where it was in one.
        step: Option<usize>,
        /// The precision it computed in.
        dtype: DType,
    },
    /// An error of a component implemented outside this workspace.
    #[error(transparent)]
    Other(#[from] BoxError),
}

impl Error {
    /// An [`Error::InvalidArgument`]: `name` is `value`; `expected`.
    pub fn invalid(name: &'static str, value: impl Display, expected: impl Display) -> Self {
        Self::InvalidArgument {
            name,
            value: value.to_string(),
            expected: expected.to_string(),
        }
    }

    /// An [`Error::Shape`]: `what` has shape `found`, expected `expected`.
    pub fn shape(what: &'static str, found: &[usize], expected: impl Display) -> Self {
        Self::Shape {
            what,
            found: found.to_vec(),
            expected: expected.to_string(),
        }
    }

    /// An [`Error::Backend`] from whatever the backend reported.
    pub fn backend(during: &'static str, message: impl Display) -> Self {
        Self::Backend {
            during,
            message: message.to_string(),
        }
    }
}

fn place(step: Option<usize>) -> String {
    step.map_or_else(String::new, |step| format!(" in step {step}"))
}

fn remedy(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 | DType::BF16 => "half precision often overflows there, try f32",
        _ => "its weights are damaged, or what it was given is far out of range",
    }
}
