use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::notes::is_note;
use crate::{Error, Files, Result, UnknownSettings};

/// A `config.json`, read setting by setting, so that an error can name the setting.
///
/// A setting that is `null` counts as absent, as it does for the Python libraries.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    path: PathBuf,
    settings: Map<String, Value>,
    unknown: UnknownSettings,
}

impl ConfigFile {
    /// Reads the file `name`, a JSON object.
    ///
    /// # Errors
    /// As [`Files::json`].
    pub fn read(files: &Files, name: &str) -> Result<Self> {
        Ok(Self::new(files.path(name), files.json(name)?))
    }

    /// Settings that are not in a file; `path` is what errors call it.
    pub fn new(path: impl Into<PathBuf>, settings: Map<String, Value>) -> Self {
        Self {
            path: path.into(),
            settings,
            unknown: UnknownSettings::default(),
        }
    }

    /// The same with another treatment of unknown settings; at first they are refused.
    #[must_use]
    pub fn on_unknown(self, unknown: UnknownSettings) -> Self {
        Self { unknown, ..self }
    }

    /// The same with the setting `field` as `value`, for what is known better than the file says.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.settings.insert(field.into(), value.into());
        self
    }

    /// The same without the settings `fields`, which somebody else reads.
    #[must_use]
    pub(crate) fn without(mut self, fields: &[&str]) -> Self {
        for field in fields {
            self.settings.remove(*field);
        }
        self
    }

    /// The settings within the setting `field`, `None` where it is absent.
    ///
    /// # Errors
    /// [`Error::Config`] when it is not an object.
    pub fn within(&self, field: &str) -> Result<Option<Self>> {
        let settings = self.get(field, "an object of settings")?;
        Ok(settings.map(|settings| Self {
            settings,
            ..self.clone()
        }))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `true` when the setting is there and not `null`.
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

    /// `true` when the setting is there as `null`: for the few where that says something else than
    /// its absence.
    pub fn is_null(&self, field: &str) -> bool {
        self.settings.get(field).is_some_and(Value::is_null)
    }

    /// The error that `field` asks for something that is not implemented.
    pub fn unsupported(&self, field: &str) -> Error {
        let value = self.settings.get(field).unwrap_or(&Value::Null);
        Error::Unsupported {
            path: self.path.clone(),
            what: format!("{field} = {} is not supported", shorten(&value.to_string())),
        }
    }

    /// Refuses every setting that is not `known`, so that none can change what a model computes
    /// without being noticed. `fixed` ones may have one of the listed values, as JSON. `null`,
    /// `false` and notes of programs that wrote the file always pass; what is neither known nor
    /// fixed may be [let pass](Self::on_unknown) with a warning.
    ///
    /// # Errors
    /// [`Error::Unsupported`], naming the setting.
    pub fn refuse_others(&self, known: &[&str], fixed: &[(&str, &[&str])]) -> Result<()> {
        for (field, value) in &self.settings {
            let inert = value.is_null() || *value == Value::Bool(false);
            if inert || known.contains(&field.as_str()) {
                continue;
            }
            match fixed.iter().find(|(name, _)| name == field) {
                Some((_, allowed)) if allowed.contains(&value.to_string().as_str()) => {}
                Some(_) => return Err(self.unsupported(field)),
                None if is_note(field) => {}
                None => self.unknown(field)?,
            }
        }
        Ok(())
    }

    fn unknown(&self, field: &str) -> Result<()> {
        let error = self.unsupported(field);
        match self.unknown {
            UnknownSettings::Refuse => Err(error),
            UnknownSettings::Warn => {
                tracing::warn!("{error} and ignored");
                Ok(())
            }
        }
    }

    /// A height and a width in `range`, which one number is both of; `default` where it is absent.
    ///
    /// # Errors
    /// [`Error::Config`] when it is anything else.
    pub fn sides(
        &self,
        field: &str,
        default: [usize; 2],
        range: RangeInclusive<usize>,
    ) -> Result<[usize; 2]> {
        let (least, most) = (range.start(), range.end());
        let expected = format!("a whole number from {least} to {most}, or a height and a width");
        let sides = match self.get::<OneOrMany<usize>>(field, &expected)? {
            None => Ok(default),
            Some(OneOrMany::One(side)) => Ok([side, side]),
            Some(OneOrMany::Many(sides)) => sides.try_into(),
        };
        match sides {
            Ok(sides) if sides.iter().all(|side| range.contains(side)) => Ok(sides),
            _ => Err(self.error(field, &expected)),
        }
    }

    /// A truth value; `default` where it is absent.
    ///
    /// # Errors
    /// [`Error::Config`] when it is anything else.
    pub fn flag(&self, field: &str, default: bool) -> Result<bool> {
        Ok(self.get(field, "true or false")?.unwrap_or(default))
    }

    /// A name, `None` where it is absent.
    ///
    /// # Errors
    /// [`Error::Config`] when it is not a string.
    pub fn text(&self, field: &str) -> Result<Option<String>> {
        self.get(field, "a name")
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

/// A setting that is one value, or a list of several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}
