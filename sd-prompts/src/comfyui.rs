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
