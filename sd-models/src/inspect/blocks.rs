//! Names that a block of layers has, to find holes.

use super::parts::Part;

/// `{module}.weight` and `{module}.bias` for each module within `block`.
pub(crate) fn pairs(block: &str, modules: &[&str]) -> Vec<String> {
    let both = |module: &&str| ["weight", "bias"].map(|end| format!("{block}{module}.{end}"));
    modules.iter().flat_map(both).collect()
}

/// Weights alone.
pub(crate) fn weights(block: &str, modules: &[&str]) -> Vec<String> {
    let weight = |module: &&str| format!("{block}{module}.weight");
    modules.iter().map(weight).collect()
}

/// More numbers than any list of layers has.
const MAX_NUMBERS: usize = 256;

/// What `N` is where there are tensors `{start}N.…`, sorted.
pub(crate) fn numbers(part: &Part<'_>, start: &str) -> Vec<usize> {
    let mut numbers: Vec<usize> = part
        .tensors
        .range(start..)
        .map_while(|(name, _)| name.strip_prefix(start))
        .filter_map(|rest| rest.split('.').next()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.truncate(MAX_NUMBERS);
    numbers
}

/// Holes in a list that begins with 0: the numbers that are not there.
pub(crate) fn holes(part: &Part<'_>, start: &str, numbers: &[usize]) -> Vec<String> {
    let end = numbers.last().map_or(0, |last| last + 1);
    let absent = (0..end).filter(|number| !numbers.contains(number));
    // A forged number is no reason for a list of millions.
    let absent = absent.take(16);
    absent
        .map(|number| format!("{}{start}{number}", part.prefix))
        .collect()
}
