//! Numbers that may be infinite, as serde values: JSON has no infinity, so it is a text there.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Number {
    Finite(f64),
    Infinite(Sign),
}

#[derive(Serialize, Deserialize)]
enum Sign {
    #[serde(rename = "inf")]
    Plus,
    #[serde(rename = "-inf")]
    Minus,
}

pub(crate) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    let number = match *value {
        f64::INFINITY => Number::Infinite(Sign::Plus),
        f64::NEG_INFINITY => Number::Infinite(Sign::Minus),
        value => Number::Finite(value),
    };
    number.serialize(to)
}

pub(crate) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<f64, D::Error> {
    Ok(match Number::deserialize(from)? {
        Number::Finite(value) => value,
        Number::Infinite(Sign::Plus) => f64::INFINITY,
        Number::Infinite(Sign::Minus) => f64::NEG_INFINITY,
    })
}
