//! Prompts as the package compel reads them (`prompt_parser.py` of its version 2.5).

mod grammar;
mod words;

use grammar::{Node, Reader, Refusal, Top};

use crate::python::is_space;
use crate::{SyntaxError, Weighted};

/// A part of a prompt; the parts' embeddings are put one behind the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Its weight (`.and(1, 0.5)`).
    pub weight: f64,
    /// What it says.
    pub content: Content,
}

/// What a [`Part`] says.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Pieces of a text with their weights. They are tokenized one by one.
    Text(Vec<Weighted>),
    /// Texts whose embeddings are summed by weight (`.blend(0.7, 0.3)`).
    Blend {
        /// The texts, each with its weight.
        texts: Vec<(f64, Vec<Weighted>)>,
        /// `true` where the weights are divided by their sum.
        normalizes: bool,
    },
}

/// The parts of a prompt, at least one: `a++` is 1.1² times as strong, `a-` 0.9 times, `(a b)1.3` and
/// `"a b"0.5` by their number; `("a", "b").blend(0.7, 0.3)` mixes, `("a", "b").and()` joins. A
/// backslash makes a sign a character. All that follows no rule is text.
///
/// # Errors
/// [`SyntaxError`] for `.swap()`, which steers attention maps, and `withLora()`, which are of other
/// components; for as many weights as there are no texts; and for more than 64 brackets in one
/// another.
pub fn parts(text: &str) -> Result<Vec<Part>, SyntaxError> {
    if text.chars().all(is_space) {
        let content = Content::Text(vec![Weighted::new("", 1.0)]);
        return Ok(vec![Part {
            weight: 1.0,
            content,
        }]);
    }
    let spaced = Spaced::new(text);
    let refused = |refusal: Refusal| spaced.error(text, refusal);
    let parts = match Reader::new(&spaced.text).top().map_err(refused)? {
        Top::Conjunction { texts, weights } => {
            let weights = weights_of(&texts, weights).map_err(refused)?;
            let texts = texts.iter().map(|text| pieces(text)).zip(weights);
            let texts = texts.filter(|(pieces, _)| !pieces.is_empty());
            let part = |(pieces, weight)| Part {
                weight,
                content: Content::Text(pieces),
            };
            texts.map(part).collect()
        }
        Top::Blend {
            texts,
            weights,
            normalizes,
        } => {
            let weights = weights_of(&texts, weights).map_err(refused)?;
            let texts = weights
                .into_iter()
                .zip(texts.iter().map(|text| pieces(text)));
            let texts: Vec<(f64, Vec<Weighted>)> = texts.collect();
            if texts.iter().any(|(_, pieces)| pieces.is_empty()) {
                return Err(refused(Refusal::new(
                    0,
                    "expected text in all that is blended",
                )));
            }
            let content = Content::Blend { texts, normalizes };
            vec![Part {
                weight: 1.0,
                content,
            }]
        }
        Top::Text(nodes) => {
            let pieces = pieces(&nodes);
            let content = Content::Text(pieces.clone());
            let part = Part {
                weight: 1.0,
                content,
            };
            (!pieces.is_empty())
                .then_some(part)
                .into_iter()
                .collect::<Vec<_>>()
        }
    };
    match parts.is_empty() {
        true => Err(refused(Refusal::new(0, "expected some text"))),
        false => Ok(parts),
    }
}

/// As many weights as there are texts; 1 where none are given.
fn weights_of<T>(texts: &[T], weights: Vec<f64>) -> Result<Vec<f64>, Refusal> {
    match weights.len() {
        0 => Ok(vec![1.0; texts.len()]),
        count if count == texts.len() => Ok(weights),
        count => {
            let expected = format!("expected {} weights, not {count}", texts.len());
            Err(Refusal::new(0, expected))
        }
    }
}

/// The pieces of a text, neighbours of equal weight as one with a space between them.
fn pieces(nodes: &[Node]) -> Vec<Weighted> {
    let mut pieces: Vec<Weighted> = Vec::new();
    // Nodes that are still to come with the weight around them, the last one first.
    let mut open: Vec<(&Node, f64)> = nodes.iter().rev().map(|node| (node, 1.0)).collect();
    while let Some((node, scale)) = open.pop() {
        match node {
            Node::Group(weight, nodes) => {
                open.extend(nodes.iter().rev().map(|node| (node, scale * weight)));
            }
            Node::Text(text) => match pieces.last_mut() {
                Some(last) if last.weight == scale => {
                    last.text.push(' ');
                    last.text.push_str(text);
                }
                _ => pieces.push(Weighted::new(&**text, scale)),
            },
        }
    }
    pieces
}

/// A prompt with a space behind each comma, and spaces for its tabs.
struct Spaced {
    text: String,
    /// The byte of the prompt that each of its bytes is of.
    origins: Vec<usize>,
}

impl Spaced {
    fn new(text: &str) -> Self {
        let mut spaced = Self {
            text: String::new(),
            origins: Vec::new(),
        };
        let mut column = 0;
        let mut behind_comma = false;
        for (at, c) in text.char_indices() {
            // The character behind a comma is not looked at again.
            let adds = behind_comma && !is_space(c);
            if adds {
                spaced.push(' ', at);
                column += 1;
            }
            behind_comma = c == ',' && !adds;
            match c {
                '\t' => {
                    let width = 8 - column % 8;
                    (0..width).for_each(|_| spaced.push(' ', at));
                    column += width;
                }
                '\n' | '\r' => {
                    spaced.push(c, at);
                    column = 0;
                }
                c => {
                    spaced.push(c, at);
                    column += 1;
                }
            }
        }
        spaced
    }

    fn push(&mut self, c: char, origin: usize) {
        self.text.push(c);
        self.origins.resize(self.text.len(), origin);
    }

    fn error(&self, text: &str, refusal: Refusal) -> SyntaxError {
        let at = self.origins.get(refusal.at).copied();
        SyntaxError::new(text, at.unwrap_or(text.len()), refusal.expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many brackets are begun, the reader's own stack does not grow with them.
    #[test]
    fn what_lies_too_deep_is_refused() {
        for sign in ["a.swap(", "(", "(a ", "\"a\".swap((", "(a.swap("] {
            for text in [
                sign.repeat(100_000),
                format!("\"{}\"", sign.replace('"', "").repeat(1000)),
            ] {
                let error = parts(&text).unwrap_err().to_string();
                assert!(error.contains("64"), "{sign}: {error}");
            }
        }
    }

    #[test]
    fn as_deep_as_may_be_is_read() {
        let text = format!(
            "{}{}{}",
            "(".repeat(64),
            "a, (b)- ".repeat(500),
            ")".repeat(64)
        );
        let read = parts(&text).unwrap();
        let [
            Part {
                content: Content::Text(pieces),
                ..
            },
        ] = &read[..]
        else {
            panic!("{read:?}");
        };
        assert_eq!(pieces.len(), 1000);
        assert_eq!(pieces[1], Weighted::new("b", 0.9));
    }
}
