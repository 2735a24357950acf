use crate::names::list;

/// Failure to make a scheduler from a name or a `scheduler_config.json`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text is not JSON, or not an object.
    #[error("scheduler_config.json is not a JSON object: {0}")]
    Json(String),
    /// A value of another type, or outside its range.
    #[error("scheduler_config.json: '{key}' is {value}; {expected}")]
    Value {
        /// The key.
        key: String,
        /// The value it holds, shortened.
        value: String,
        /// The value that would be right.
        expected: String,
    },
    /// A class that is not known here.
    #[error(
        "scheduler_config.json: unknown scheduler class '{class}'; known are {}",
        list(known)
    )]
    UnknownClass {
        /// The class named in the file.
        class: String,
        /// The names of the classes that are known.
        known: Vec<&'static str>,
    },
    /// A name that no dialect knows.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Settings that a scheduler or a noise schedule refuses.
    #[error(transparent)]
    Settings(#[from] sd_core::Error),
}

/// A scheduler's name that no dialect knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown scheduler '{name}'; did you mean {}? Known are {}",
    list(nearest),
    list(known)
)]
#[non_exhaustive]
pub struct NameError {
    /// The name as it was given, shortened.
    pub name: String,
    /// The known names that are spelled most like it, best first.
    pub nearest: Vec<String>,
    /// The canonical names of all solvers.
    pub known: Vec<&'static str>,
}

/// `text`, cut where it is too long to be printed whole.
pub(crate) fn shortened(text: &str) -> String {
    const LIMIT: usize = 80;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}
