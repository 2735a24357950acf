use crate::python::{is_decimal, is_space, whole_words};
use crate::{SyntaxError, Weighted};

/// The parts of a prompt between the words `AND`, at least one, each with the weight behind its last
/// colon (composable diffusion, Liu et al. 2022, arXiv:2206.01714).
///
/// The weight is looked for in a prompt without `AND`, too: "a clock at 10:30" has weight 30.
///
/// # Errors
/// [`SyntaxError`] for a weight that no number holds.
pub fn parts(text: &str) -> Result<Vec<Weighted>, SyntaxError> {
    let mut parts = Vec::new();
    let mut start = 0;
    let ends = whole_words(text, "AND").chain(std::iter::once(text.len()..text.len()));
    for word in ends {
        parts.push(part(text, start, word.start)?);
        start = word.end;
    }
    Ok(parts)
}

fn part(whole: &str, start: usize, end: usize) -> Result<Weighted, SyntaxError> {
    let text = whole[start..end].trim_end_matches(is_space);
    let numbered = text.rsplit_once(':').and_then(|(text, number)| {
        let number = number.trim_start_matches(is_space);
        let weight = is_decimal(number).then(|| number.parse::<f64>().ok())?;
        Some((text.trim_end_matches(is_space), weight?))
    });
    let Some((text, weight)) = numbered else {
        return Ok(Weighted::new(text, 1.0));
    };
    if !weight.is_finite() {
        let expected = "expected a weight that a number holds";
        return Err(SyntaxError::new(whole, start + text.len(), expected));
    }
    Ok(Weighted::new(text, weight))
}
