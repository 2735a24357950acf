//! Habits of Python's text functions, which the programs' readers are written with.

/// White space as `\s` and `str.strip` have it: Unicode's, and four separators more.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// A character that `\w` matches.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The number that `float(text)` gives.
pub(crate) fn float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    // Underscores stand between digits, and nowhere else.
    let digit = |c: Option<&u8>| c.is_some_and(u8::is_ascii_digit);
    let bytes = text.as_bytes();
    let misplaced = |k: usize| {
        let before = k.checked_sub(1).and_then(|k| bytes.get(k));
        bytes[k] == b'_' && !(digit(before) && digit(bytes.get(k + 1)))
    };
    if (0..bytes.len()).any(misplaced) {
        return None;
    }
    // Rust takes the same words for the same numbers.
    text.replace('_', "").parse().ok()
}

/// `true` of a sign or none, and digits with a point before, among or behind them.
pub(crate) fn is_decimal(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|c| c.is_ascii_digit());
    digits(whole) && digits(fraction) && whole.len() + fraction.len() > 0
}

/// Ranges of `text` that are the whole word `word`: the pattern `\bword\b`.
pub(crate) fn whole_words<'a>(
    text: &'a str,
    word: &'a str,
) -> impl Iterator<Item = std::ops::Range<usize>> + 'a {
    text.match_indices(word).filter_map(move |(start, found)| {
        let end = start + found.len();
        let before = text[..start].chars().next_back();
        let after = text[end..].chars().next();
        let bounded = !before.is_some_and(is_word) && !after.is_some_and(is_word);
        bounded.then_some(start..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_python() {
        let right = [
            " 1.5 ", "1_0.2_5", "-.5", "+3.", "1e-2", "Infinity", "0x", "1__0", "_1", "1_",
        ];
        let found = right.map(float);
        let some = [1.5, 10.25, -0.5, 3.0, 0.01, f64::INFINITY].map(Some);
        assert_eq!(found[..6], some);
        assert_eq!(found[6..], [None; 4]);
        assert!(float("nan").is_some_and(f64::is_nan));
    }
}
