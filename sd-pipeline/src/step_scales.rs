//! Factors that change with the steps of a run.

use std::fmt;
use std::str::FromStr;

/// Factors from shares of a run's steps on: from the step number ⌊share · steps⌋, counted from 0 as
/// diffusers counts, until the next one's. Before the first it is 1.
///
/// ```
/// # use sd_pipeline::StepScales;
/// // Not before a quarter of the steps, at half strength in the last fifth.
/// let steps: StepScales = "0=0,0.25=1,0.8=0.5".parse()?;
/// # Ok::<_, String>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepScales(Vec<(f64, f32)>);

impl StepScales {
    /// `true` where it is 1 in all steps.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same with `factor` from `share` of the steps on.
    ///
    /// # Errors
    /// In words, when the share is not from 0 to below 1, or the factor not finite.
    pub fn with(mut self, share: f64, factor: f32) -> Result<Self, String> {
        if !(0.0..1.0).contains(&share) {
            return Err(format!(
                "the share of the steps is {share}, expected 0 to below 1"
            ));
        }
        if !factor.is_finite() {
            return Err(format!(
                "the factor from {share} on is {factor}, expected a finite number"
            ));
        }
        let place = self.0.partition_point(|(other, _)| *other <= share);
        self.0.insert(place, (share, factor));
        Ok(self)
    }

    /// The factor of step number `step`, from 0, of so many.
    pub(crate) fn at(&self, step: usize, steps: usize) -> f32 {
        let has_begun = |share: f64| (share * steps as f64) as usize <= step;
        let before = self.0.iter().rev().find(|(share, _)| has_begun(*share));
        before.map_or(1.0, |(_, factor)| *factor)
    }
}

impl FromStr for StepScales {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut scales = Self::default();
        for part in text.split(',') {
            let number = |text: &str| {
                let number: Result<f64, _> = text.parse();
                number.map_err(|_| format!("{part:?} is no SHARE=FACTOR"))
            };
            let (share, factor) = part.split_once('=').unwrap_or((part, ""));
            scales = scales.with(number(share)?, number(factor)? as f32)?;
        }
        Ok(scales)
    }
}

impl fmt::Display for StepScales {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (k, (share, factor)) in self.0.iter().enumerate() {
            let comma = if k == 0 { "" } else { "," };
            write!(f, "{comma}{share}={factor}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_holds_until_the_next() {
        let steps: StepScales = "0.5=0.25,0.25=2".parse().unwrap();
        assert_eq!(steps.to_string(), "0.25=2,0.5=0.25");
        let found = [0, 1, 2, 3, 4, 5].map(|step| steps.at(step, 6));
        assert_eq!(found, [1.0, 2.0, 2.0, 0.25, 0.25, 0.25]);
        assert_eq!(StepScales::default().at(3, 6), 1.0);
    }

    #[test]
    fn what_is_no_share_or_factor_is_named() {
        for (text, reason) in [
            ("1=1", "expected 0 to below 1"),
            ("-0.1=1", "expected 0 to below 1"),
            ("nan=1", "expected 0 to below 1"),
            ("0=inf", "expected a finite number"),
            ("0", "no SHARE=FACTOR"),
            ("", "no SHARE=FACTOR"),
        ] {
            let error = text.parse::<StepScales>().unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
