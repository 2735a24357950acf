use strsim::levenshtein;

/// The `count` candidates that need the fewest changed letters to become `name`, best first.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
    count: usize,
) -> Vec<String> {
    let name = name.to_lowercase();
    let mut ranked: Vec<(usize, &str)> = candidates
        .map(|candidate| (levenshtein(&name, &candidate.to_lowercase()), candidate))
        .collect();
    ranked.sort();
    ranked.dedup_by_key(|(_, candidate)| *candidate);
    let best = ranked.into_iter().take(count);
    best.map(|(_, candidate)| candidate.into()).collect()
}
