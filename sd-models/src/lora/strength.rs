//! Strengths of an adapter, as a whole and block by block.

use std::fmt;
use std::str::FromStr;

/// Factors of the blocks of a network, by the names of A1111's "LoRA block weight": `BASE` is all of
/// the text encoders, `IN00` to `IN11`, `MID` and `OUT00` to `OUT11` are the U-Net's blocks as the
/// original code numbers them (`input_blocks.4` is `IN04`; SDXL has nine each). `IN` and `OUT` alone
/// are all of a side.
///
/// Of several names of one block the last counts; a block without a name has factor 1, and so has
/// what is in no block: the embeddings of time and size, and the last convolution.
///
/// ```
/// # use sd_models::lora::BlockScales;
/// let blocks: BlockScales = "IN=0,IN08=0.5,OUT=1.2".parse()?;
/// assert_eq!(blocks.to_string(), "IN=0,IN08=0.5,OUT=1.2");
/// # Ok::<_, String>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BlockScales(Vec<(String, f32)>);

impl BlockScales {
    /// `true` where all factors are 1.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same with the factor of the blocks `name`.
    ///
    /// # Errors
    /// In words, when there is no block of that name in any network, or the factor is not finite.
    pub fn with(mut self, name: &str, factor: f32) -> Result<Self, String> {
        let numbered = |side: &str| {
            let number = name.strip_prefix(side)?;
            Some(
                number.is_empty()
                    || number.len() == 2
                        && number.bytes().all(|digit| digit.is_ascii_digit())
                        && number.parse::<u8>().is_ok_and(|n| n < 12),
            )
        };
        let known = matches!(name, "BASE" | "MID")
            || numbered("IN").or_else(|| numbered("OUT")).unwrap_or(false);
        if !known {
            return Err(format!(
                "there is no block {name}, expected BASE, IN, IN00 to IN11, MID, OUT, OUT00 to OUT11"
            ));
        }
        if !factor.is_finite() {
            return Err(format!(
                "the factor of {name} is {factor}, expected a finite number"
            ));
        }
        self.0.push((name.into(), factor));
        Ok(self)
    }

    /// Factor of the block `block`.
    fn of(&self, block: &str) -> f32 {
        let named = self.0.iter().rev().find(|(name, _)| selects(name, block));
        named.map_or(1.0, |(_, factor)| *factor)
    }

    /// The first name that selects none of `blocks`.
    pub(super) fn lost<'a>(&self, blocks: impl Iterator<Item = &'a str> + Clone) -> Option<&str> {
        let lost = |(name, _): &&(String, f32)| !blocks.clone().any(|block| selects(name, block));
        self.0.iter().find(lost).map(|(name, _)| &**name)
    }
}

fn selects(name: &str, block: &str) -> bool {
    name == block || matches!(name, "IN" | "OUT") && block.starts_with(name)
}

impl FromStr for BlockScales {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut scales = Self::default();
        for part in text.split(',') {
            let (name, factor) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?} is no NAME=FACTOR"))?;
            let factor: f32 = factor
                .parse()
                .map_err(|_| format!("the factor of {name} is {factor:?}, expected a number"))?;
            scales = scales.with(name, factor)?;
        }
        Ok(scales)
    }
}

impl fmt::Display for BlockScales {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (k, (name, factor)) in self.0.iter().enumerate() {
            let comma = if k == 0 { "" } else { "," };
            write!(f, "{comma}{name}={factor}")?;
        }
        Ok(())
    }
}

/// Strength of an adapter: 1 as trained, 0 none, less than 0 the other way.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraStrength {
    /// Factor of all of it.
    pub whole: f32,
    /// Further factors of the blocks.
    pub blocks: BlockScales,
}

impl LoraStrength {
    /// The strength in `block`; `None` of what is in no block.
    pub(super) fn of(&self, block: Option<&str>) -> f32 {
        self.whole * block.map_or(1.0, |block| self.blocks.of(block))
    }
}

impl From<f32> for LoraStrength {
    fn from(whole: f32) -> Self {
        Self {
            whole,
            blocks: BlockScales::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_name_of_a_block_counts() {
        let scales: BlockScales = "IN=0.5,IN04=2,OUT11=0,BASE=-1".parse().unwrap();
        for (block, factor) in [
            ("IN00", 0.5),
            ("IN04", 2.0),
            ("MID", 1.0),
            ("OUT11", 0.0),
            ("OUT01", 1.0),
            ("BASE", -1.0),
        ] {
            assert_eq!(scales.of(block), factor, "{block}");
        }
        assert_eq!(
            scales.lost(["IN00", "OUT11", "BASE"].into_iter()),
            Some("IN04")
        );
        let strength = LoraStrength {
            whole: 0.5,
            blocks: scales,
        };
        assert_eq!((strength.of(Some("IN04")), strength.of(None)), (1.0, 0.5));
    }

    #[test]
    fn what_is_no_block_is_named() {
        for (text, reason) in [
            ("IN12=1", "no block IN12"),
            ("IN4=1", "no block IN4"),
            ("in04=1", "no block in04"),
            ("MID", "no NAME=FACTOR"),
            ("MID=x", "expected a number"),
            ("MID=inf", "expected a finite number"),
            ("", "no NAME=FACTOR"),
        ] {
            let error = text.parse::<BlockScales>().unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
