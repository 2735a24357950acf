//! Prompts as ComfyUI reads them (`token_weights` of its `comfy/sd1_clip.py`), oddities included.

use crate::python::float;
use crate::{SyntaxError, Weighted};

/// Brackets that may lie in one another; ComfyUI's own reader ends at about as many.
const DEEPEST: usize = 512;

/// Stand-ins of escaped brackets, which are as long.
const OPEN: &str = "\0\u{2}";
const CLOSED: &str = "\0\u{1}";

/// The pieces of a text with their weights: `(a)` is 1.1 times as strong, and brackets within brackets
/// multiply, but a number replaces what stands around it, so in `((a:0.5) b:2)` the weight of `a` is
/// 0.5. A backslash makes a bracket a character.
///
/// Brackets without partners are read as ComfyUI does it, which is not always what one expects:
/// `(a (b)` is a bracket around `a (b`.
///
/// # Errors
/// [`SyntaxError`] for a weight that is infinite or no number (`(a:nan)`), and for more than 512
/// brackets in one another.
pub fn weights(text: &str) -> Result<Vec<Weighted>, SyntaxError> {
    let escaped = text.replace("\\)", CLOSED).replace("\\(", OPEN);
    let error = |inner: &str, expected: String| {
        let at = inner.as_ptr() as usize - escaped.as_ptr() as usize;
        SyntaxError::new(text, at, expected)
    };
    let mut pieces = Vec::new();
    // Items that are still to come with their weights and depths, the last one first.
    let mut open: Vec<_> = items(&escaped).rev().map(|item| (item, 1.0, 0)).collect();
    while let Some((item, weight, depth)) = open.pop() {
        let Some(inner) = inside(item) else {
            let text = item.replace(CLOSED, ")").replace(OPEN, "(");
            pieces.push(Weighted::new(text, weight));
            continue;
        };
        if depth == DEEPEST {
            let expected = format!("expected at most {DEEPEST} brackets in one another");
            return Err(error(inner, expected));
        }
        let (inner, weight) = numbered(inner).unwrap_or((inner, weight * 1.1));
        if !weight.is_finite() {
            return Err(error(inner, "expected a weight, a finite number".into()));
        }
        let items = items(inner).rev();
        open.extend(items.map(|item| (item, weight, depth + 1)));
    }
    Ok(pieces)
}

/// The outermost brackets of `text` and what is between them.
fn items(text: &str) -> impl DoubleEndedIterator<Item = &str> {
    let (mut items, mut start, mut depth) = (Vec::new(), 0, 0i64);
    for (at, c) in text.bytes().enumerate() {
        match c {
            b'(' => {
                if depth == 0 {
                    items.push(&text[start..at]);
                    start = at;
                }
                depth += 1;
            }
            b')' => {
                depth -= 1;
                if depth == 0 {
                    items.push(&text[start..=at]);
                    start = at + 1;
                }
            }
            _ => {}
        }
    }
    items.push(&text[start..]);
    items.into_iter().filter(|item| !item.is_empty())
}

/// The text in the brackets around `item`, if it has some.
fn inside(item: &str) -> Option<&str> {
    item.strip_prefix('(')?.strip_suffix(')')
}

/// The text before its last colon and the number behind it.
fn numbered(text: &str) -> Option<(&str, f64)> {
    let (text, number) = text.rsplit_once(':')?;
    Some((text, float(number)?)).filter(|_| !text.is_empty())
}

/// A part of a piece of text, as ComfyUI takes it apart before it is tokenized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text.
    Text(String),
    /// The name of a word that was learned (textual inversion).
    Embedding(String),
}

/// Mark before a name.
const EMBEDDING: &str = "embedding:";

/// The parts of `text`, a piece of a prompt: `embedding:NAME` at its beginning and behind a space or a
/// line's end is a name up to the next white space, and what follows is text until the next. Of a name
/// that is not `known`, commas at its ends are no part.
pub fn parts(text: &str, known: impl Fn(&str) -> bool) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        // The sign before a mark goes with it.
        let marks = rest.match_indices(EMBEDDING);
        let mut marks = marks.filter(|(at, _)| rest[..*at].ends_with([' ', '\n']));
        let next = marks.next().map(|(at, _)| at);
        let part = &rest[..next.map_or(rest.len(), |at| at - 1)];
        match part.strip_prefix(EMBEDDING) {
            Some(named) => embedding(named, &known, &mut parts),
            None if part.is_empty() => {}
            None => parts.push(Part::Text(part.into())),
        }
        match next {
            Some(at) => rest = &rest[at..],
            None => return parts,
        }
    }
}

/// The name that `named` begins with, and the text behind it.
fn embedding(named: &str, known: impl Fn(&str) -> bool, parts: &mut Vec<Part>) {
    let mut words = named.split_whitespace();
    let name = words.next().unwrap_or_default();
    let behind: Vec<&str> = words.collect();
    let mut behind = behind.join(" ");
    let bare = name.trim_matches(',');
    let mut name = name;
    if bare.len() < name.len() && !known(name) {
        // As many characters as the bare name has are taken off, wherever the commas are.
        let commas: String = name.chars().skip(bare.chars().count()).collect();
        behind = format!("{commas} {behind}");
        name = bare;
    }
    parts.push(Part::Embedding(name.into()));
    if !behind.is_empty() {
        parts.push(Part::Text(behind));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_out_as_comfyui_takes_them() {
        let read = |text: &str| {
            let known = |name: &str| ["cat", "a,"].contains(&name);
            let part = |part| match part {
                Part::Text(text) => format!("'{text}'"),
                Part::Embedding(name) => format!("<{name}>"),
            };
            let parts = parts(text, known).into_iter().map(part);
            parts.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(read("a photo of x"), "'a photo of x'");
        assert_eq!(read("a embedding:cat, on  grass"), "'a' <cat> ', on grass'");
        assert_eq!(read("embedding:cat"), "<cat>");
        assert_eq!(read("embedding:cat,,"), "<cat> ',, '");
        assert_eq!(read("embedding:,cat"), "<cat> 't '");
        assert_eq!(read("embedding:a, b"), "<a,> 'b'");
        assert_eq!(
            read("x embedding:cat embedding:dog\nembedding:cat y"),
            "'x' <cat> <dog> <cat> 'y'"
        );
        // Within a word it is text, and so is what has no white space before it.
        assert_eq!(read("noembedding:cat"), "'noembedding:cat'");
        assert_eq!(read("embedding:"), "<>");
        assert_eq!(read(""), "");
    }
}
