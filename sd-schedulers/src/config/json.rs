use serde_json::{Map, Value};

use crate::ConfigError;

/// The JSON object in `text`. Python writes numbers that JSON has not, `-Infinity` for example in
/// `lambda_min_clipped`; they come out as strings.
pub(crate) fn parse_object(text: &str) -> Result<Map<String, Value>, ConfigError> {
    let text = quote_python_numbers(text);
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(ConfigError::Json("expected { … } at its top".into())),
        Err(e) => Err(ConfigError::Json(e.to_string())),
    }
}

fn quote_python_numbers(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    let (mut inside, mut escaped) = (false, false);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if !inside && let Some(word) = python_number(rest) {
            quoted.extend(['"'].into_iter().chain(word.chars()).chain(['"']));
            rest = &rest[word.len()..];
            continue;
        }
        inside ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        quoted.push(c);
        rest = &rest[c.len_utf8()..];
    }
    quoted
}

fn python_number(text: &str) -> Option<&'static str> {
    let words = ["-Infinity", "Infinity", "NaN"];
    words.into_iter().find(|word| text.starts_with(word))
}
