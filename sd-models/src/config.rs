use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, Files, Result};

/// A `config.json`, read setting by setting, so that an error can name the setting.
///
/// A setting that is `null` counts as absent, as it does for the Python libraries.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    path: PathBuf,
    settings: Map<String, Value>,
}

impl ConfigFile {
    /// Reads the file `name`, a JSON object.
    ///
    /// # Errors
    /// As [`Files::json`].
    pub fn read(files: &Files, name: &str) -> Result<Self> {
        Ok(Self {
            path: files.path(name),
            settings: files.json(name)?,
        })
    }

    /// Settings that are not in a file; `path` is what errors call it.
    pub fn new(path: impl Into<PathBuf>, settings: Map<String, Value>) -> Self {
        Self {
            path: path.into(),
            settings,
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the setting is there and not `null`.
    pub fn has(&self, field: &str) -> bool {
        self.value(field).is_some()
    }

    fn value(&self, field: &str) -> Option<&Value> {
        self.settings.get(field).filter(|value| !value.is_null())
    }

    /// The error that `field`, as it is in the file, should be `expected`.
    pub fn error(&self, field: &str, expected: &str) -> Error {
        let value = match self.settings.get(field) {
            None => "missing".into(),
            // A hostile value may be long.
            Some(value) => shorten(&value.to_string()),
        };
        Error::config(&self.path, field, value, format!("expected {expected}"))
    }

    /// A setting of any type, `None` where it is absent.
    ///
    /// # Errors
    /// [`Error::Config`] when it is not a `T`; `expected` says in words what it should be.
    pub fn get<T: DeserializeOwned>(&self, field: &str, expected: &str) -> Result<Option<T>> {
        let value = self.value(field).map(|value| T::deserialize(value));
        value.transpose().map_err(|_| self.error(field, expected))
    }

    /// A whole number in `range`; `default` where it is absent, an error where that is `None`.
    ///
    /// # Errors
    /// [`Error::Config`] when it is negative, a fraction, out of range or missing.
    pub fn size(
        &self,
        field: &str,
        default: Option<usize>,
        range: RangeInclusive<usize>,
    ) -> Result<usize> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        match self.get::<usize>(field, &expected)?.or(default) {
            Some(size) if range.contains(&size) => Ok(size),
            _ => Err(self.error(field, &expected)),
        }
    }

    /// A finite number above 0; `default` where it is absent.
    ///
    /// # Errors
    /// [`Error::Config`] when it is anything else.
    pub fn positive(&self, field: &str, default: f64) -> Result<f64> {
        let expected = "a number above 0";
        let value = self.get::<f64>(field, expected)?.unwrap_or(default);
        if value.is_finite() && value > 0.0 {
            Ok(value)
        } else {
            Err(self.error(field, expected))
        }
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}
