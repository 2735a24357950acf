use std::ops::RangeInclusive;

use serde::de::DeserializeOwned;

use crate::config::OneOrMany;
use crate::{ConfigFile, Result};

/// A setting for each of `count` resolutions, finest first.
pub(super) fn per_block<T: DeserializeOwned + Clone>(
    file: &ConfigFile,
    field: &str,
    default: T,
    count: usize,
) -> Result<Vec<T>> {
    let expected = format!("one value, or a list of as many as block_out_channels, {count}");
    match file.get(field, &expected)? {
        None => Ok(vec![default; count]),
        Some(OneOrMany::One(value)) => Ok(vec![value; count]),
        Some(OneOrMany::Many(values)) if values.len() == count => Ok(values),
        Some(OneOrMany::Many(_)) => Err(file.error(field, &expected)),
    }
}

/// Whole numbers in `range` for each of `count` resolutions, finest first.
pub(super) fn sizes_per_block(
    file: &ConfigFile,
    field: &str,
    default: usize,
    range: RangeInclusive<usize>,
    count: usize,
) -> Result<Vec<usize>> {
    let sizes = per_block(file, field, default, count)?;
    if sizes.iter().all(|size| range.contains(size)) {
        return Ok(sizes);
    }
    let expected = format!("whole numbers from {} to {}", range.start(), range.end());
    Err(file.error(field, &expected))
}
