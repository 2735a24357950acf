use serde_json::{Map, Value};

use crate::ConfigError;
use crate::error::shortened;

/// A configuration's keys with their types checked. A key that is absent, or `null` as Python's
/// `None`, has the default.
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
}

/// The error of a key that holds something else than it should.
pub(crate) fn wrong(key: &str, value: Option<&Value>, expected: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        key: key.into(),
        value: value.map_or("absent".into(), |v| match v {
            Value::Array(list) => format!("a list of {}", list.len()),
            Value::Object(_) => "an object".into(),
            other => shortened(&other.to_string()),
        }),
        expected: expected.into(),
    }
}

impl<'a> Fields<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>) -> Self {
        Self { map }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            other => Err(wrong(key, other, "expected true or false")),
        }
    }

    /// A number; `NaN` is none.
    pub(crate) fn number(&self, key: &str, default: f64) -> Result<f64, ConfigError> {
        Ok(self.optional_number(key)?.unwrap_or(default))
    }

    pub(crate) fn optional_number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        let number = match self.get(key) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) if text == "Infinity" => Some(f64::INFINITY),
            Some(Value::String(text)) if text == "-Infinity" => Some(f64::NEG_INFINITY),
            Some(_) => None,
        };
        let expected = "expected a number";
        number
            .map(Some)
            .ok_or_else(|| wrong(key, self.get(key), expected))
    }

    /// A whole number from 0 to 100,000.
    pub(crate) fn count(&self, key: &str, default: usize) -> Result<usize, ConfigError> {
        let value = self.get(key);
        let count = match value {
            None => return Ok(default),
            // Python does not tell 1 from 1.0 either.
            Some(Value::Number(number)) => number.as_f64().filter(|n| n.fract() == 0.0),
            Some(_) => None,
        };
        match count.filter(|n| (0.0..=100_000.0).contains(n)) {
            Some(count) => Ok(count as usize),
            None => Err(wrong(
                key,
                value,
                "expected a whole number from 0 to 100000",
            )),
        }
    }

    /// A list of whole numbers.
    pub(crate) fn counts(&self, key: &str) -> Result<Vec<usize>, ConfigError> {
        let value = self.get(key);
        let read = match value {
            None => return Ok(Vec::new()),
            Some(value) => serde_json::from_value(value.clone()),
        };
        read.map_err(|_| wrong(key, value, "expected a list of whole numbers"))
    }

    /// One of `options`.
    pub(crate) fn choice<T: Clone>(
        &self,
        key: &str,
        default: T,
        options: &[(&str, T)],
    ) -> Result<T, ConfigError> {
        let value = self.get(key);
        let found = match value {
            None => return Ok(default),
            Some(Value::String(text)) => options.iter().find(|(name, _)| name == text),
            Some(_) => None,
        };
        let names: Vec<_> = options.iter().map(|(name, _)| *name).collect();
        let expected = || format!("expected one of {}", names.join(", "));
        match found {
            Some((_, choice)) => Ok(choice.clone()),
            None => Err(wrong(key, value, expected())),
        }
    }
}
