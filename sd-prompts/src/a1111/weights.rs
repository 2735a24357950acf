use crate::python::{is_space, whole_words};
use crate::{SyntaxError, Weighted};

const ROUND: f64 = 1.1;
const SQUARE: f64 = 1.0 / 1.1;
/// Brackets that may be open at once. Each costs a multiplication for each piece in it.
const DEEPEST: usize = 512;

/// The pieces of a text with their weights, neighbours of equal weight as one: `(a)` is 1.1 times as
/// strong, `[a]` 1.1 times weaker, `(a:1.3)` 1.3 times, and brackets within brackets multiply. An
/// open bracket that nothing closes reaches to the end. A backslash makes a bracket a character.
///
/// The word `BREAK` is a piece of its own, of weight −1 ([`is_break`]). In brackets its weight is
/// another, and it is a word like others.
///
/// # Errors
/// [`SyntaxError`] for a weight that is no number, as in `(a:1.1.1)`, and for more than 512 brackets
/// in one another.
pub fn weights(text: &str) -> Result<Vec<Weighted>, SyntaxError> {
    let mut pieces: Vec<Weighted> = Vec::new();
    let (mut round, mut square) = (Vec::new(), Vec::new());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let at = text.len() - rest.len();
        let length = token(rest);
        let token = &rest[..length];
        rest = &rest[length..];
        match c {
            '\\' => pieces.push(Weighted::new(&token[1..], 1.0)),
            '(' | '[' => {
                let open = if c == '(' { &mut round } else { &mut square };
                if open.len() == DEEPEST {
                    let expected = format!("expected at most {DEEPEST} brackets in one another");
                    return Err(SyntaxError::new(text, at, expected));
                }
                open.push(pieces.len());
            }
            ':' if length > 1 && !round.is_empty() => {
                let number = token[1..length - 1].trim_matches(is_space);
                let weight = number.parse().ok().filter(|w: &f64| w.is_finite());
                let Some(weight) = weight else {
                    return Err(SyntaxError::new(
                        text,
                        at + 1,
                        "expected a weight, a number",
                    ));
                };
                multiply(&mut pieces, round.pop(), weight);
            }
            ')' if !round.is_empty() => multiply(&mut pieces, round.pop(), ROUND),
            ']' if !square.is_empty() => multiply(&mut pieces, square.pop(), SQUARE),
            _ => broken(token, &mut pieces),
        }
    }
    for start in round {
        multiply(&mut pieces, Some(start), ROUND);
    }
    for start in square {
        multiply(&mut pieces, Some(start), SQUARE);
    }
    Ok(merged(pieces))
}

/// `true` of the piece that ends a chunk of tokens.
pub fn is_break(piece: &Weighted) -> bool {
    piece.text == "BREAK" && piece.weight == -1.0
}

/// Length of the first token of `text`, which is not empty: an escape, a bracket, a weight with the
/// bracket that ends it, a colon, or all that is none of these.
fn token(text: &str) -> usize {
    match text.as_bytes()[0] {
        b'\\' => match text.as_bytes().get(1) {
            Some(b'(' | b')' | b'[' | b']' | b'\\') => 2,
            _ => 1,
        },
        b'(' | b'[' | b')' | b']' => 1,
        b':' => weight_token(text).unwrap_or(1),
        _ => text
            .find(['\\', '(', ')', '[', ']', ':'])
            .unwrap_or(text.len()),
    }
}

/// Length of the token `: 1.3 )`.
fn weight_token(text: &str) -> Option<usize> {
    let inner = text[1..].trim_start_matches(is_space);
    let number = inner.strip_prefix(['+', '-']).unwrap_or(inner);
    let behind = number.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let end = behind.trim_start_matches(is_space).strip_prefix(')')?;
    (behind.len() < number.len()).then_some(text.len() - end.len())
}

fn multiply(pieces: &mut [Weighted], start: Option<usize>, factor: f64) {
    for piece in &mut pieces[start.unwrap_or_default()..] {
        piece.weight *= factor;
    }
}

/// Adds `text` with its `BREAK`s apart, the space around which goes with them.
fn broken(text: &str, pieces: &mut Vec<Weighted>) {
    let mut start = 0;
    for word in whole_words(text, "BREAK") {
        let before = text[start..word.start].trim_end_matches(is_space);
        pieces.push(Weighted::new(before, 1.0));
        pieces.push(Weighted::new("BREAK", -1.0));
        let behind = &text[word.end..];
        start = text.len() - behind.trim_start_matches(is_space).len();
    }
    pieces.push(Weighted::new(&text[start..], 1.0));
}

fn merged(pieces: Vec<Weighted>) -> Vec<Weighted> {
    let mut merged: Vec<Weighted> = Vec::new();
    for piece in pieces {
        match merged.last_mut() {
            Some(last) if last.weight == piece.weight => last.text.push_str(&piece.text),
            _ => merged.push(piece),
        }
    }
    if merged.is_empty() {
        merged.push(Weighted::new("", 1.0));
    }
    merged
}
