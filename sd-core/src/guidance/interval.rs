//! Parts of a run, in fractions of its steps.

use std::ops::Range;

use crate::{Error, Result};

/// `true` in steps from `⌊start·steps⌋` to before `⌊end·steps⌋`, which is how diffusers counts.
pub(super) fn contains(interval: &Range<f64>, step: usize, steps: usize) -> bool {
    let at = |share: f64| (share * steps as f64) as usize;
    (at(interval.start)..at(interval.end)).contains(&step)
}

pub(super) fn check(name: &'static str, interval: &Range<f64>) -> Result<()> {
    let Range { start, end } = interval;
    if 0.0 <= *start && start <= end && *end <= 1.0 {
        return Ok(());
    }
    let expected = "expected a start and an end from 0 to 1, the end not before the start";
    Err(Error::invalid(name, format!("{start} to {end}"), expected))
}
