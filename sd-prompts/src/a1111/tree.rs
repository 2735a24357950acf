//! Brackets that change with the step, found in a text.

use crate::SyntaxError;
use crate::python::{is_decimal, is_space};

/// A bracket that says what holds when.
#[derive(Debug)]
pub(super) struct Group {
    /// Byte of its opening bracket.
    pub(super) start: usize,
    /// Byte of its closing bracket.
    pub(super) end: usize,
    /// Bytes of the colons or bars between its choices.
    pub(super) marks: Vec<usize>,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// One choice after another, from step to step.
    Alternate,
    /// The last choice behind a place of the run.
    Scheduled(When),
}

/// A place of the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum When {
    /// A number of steps.
    Steps(f64),
    /// A share of the steps.
    Share(f64),
}

/// An opening bracket and the marks seen in it so far.
struct Open {
    at: usize,
    is_round: bool,
    colons: Vec<usize>,
    bars: Vec<usize>,
}

/// The groups of `text`, in the order of their ends; `None` where A1111's grammar does not hold, and
/// the text is what it is.
///
/// The grammar is ambiguous: a bracket may always be a character, too, and where a text has brackets
/// without partners A1111's parser (Earley's, of lark 1.1.2) decides by the hash seed of its process
/// whether those beside them are groups. Here they are. A bracket closes the last one that is open;
/// where that is of the other kind, or something is in the bracket that no group has, it and all
/// that are open around it are characters. A bar in none of them is in no grammar.
pub(super) fn groups(text: &str) -> Result<Option<Vec<Group>>, SyntaxError> {
    let mut open: Vec<Open> = Vec::new();
    let (mut groups, mut bars, mut used) = (Vec::new(), 0, 0);
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => match characters.next() {
                None | Some((_, '\n')) => return Ok(None),
                Some(_) => {}
            },
            '(' | '[' => open.push(Open {
                at,
                is_round: c == '(',
                colons: Vec::new(),
                bars: Vec::new(),
            }),
            ':' => {
                if let Some(open) = open.last_mut() {
                    open.colons.push(at);
                }
            }
            '|' => {
                bars += 1;
                if let Some(open) = open.last_mut() {
                    open.bars.push(at);
                }
            }
            ')' | ']' => {
                let bracket = open.pop().filter(|open| open.is_round == (c == ')'));
                let closed = bracket.map(|bracket| closed(text, bracket, at));
                match closed.transpose()?.flatten() {
                    Some(Closed::Plain) => {}
                    Some(Closed::Group(group)) => {
                        if group.kind == Kind::Alternate {
                            used += group.marks.len();
                        }
                        groups.push(group);
                    }
                    None => open.clear(),
                }
            }
            _ => {}
        }
    }
    Ok((bars == used).then_some(groups))
}

enum Closed {
    /// A bracket that stands for a weight, if anything.
    Plain,
    Group(Group),
}

/// The meaning of a bracket that ends at `end`, if it has one.
fn closed(text: &str, open: Open, end: usize) -> Result<Option<Closed>, SyntaxError> {
    let group = |marks, kind| {
        let start = open.at;
        Closed::Group(Group {
            start,
            end,
            marks,
            kind,
        })
    };
    Ok(match (open.is_round, open.colons.len(), open.bars.len()) {
        (true, 0 | 1, 0) | (false, 0, 0) => Some(Closed::Plain),
        (false, 0, _) => Some(group(open.bars, Kind::Alternate)),
        (false, 1 | 2, 0) => {
            let last = open.colons.last().copied().unwrap_or(end);
            when(text, last + 1, end)?.map(|when| group(open.colons, Kind::Scheduled(when)))
        }
        _ => None,
    })
}

/// The place that the text from byte `start` to `end` says, where it is a number: with a point a
/// share, without one a number of steps.
fn when(text: &str, start: usize, end: usize) -> Result<Option<When>, SyntaxError> {
    let number = text[start..end].trim_matches(is_space);
    if !is_number(number) {
        return Ok(None);
    }
    let value: f64 = number.parse().unwrap_or(f64::NAN);
    if !value.is_finite() {
        return Err(SyntaxError::new(text, start, "expected a step of a run"));
    }
    Ok(Some(match number.contains('.') {
        true => When::Share(value),
        false => When::Steps(value),
    }))
}

/// `true` of lark's `SIGNED_NUMBER`.
fn is_number(text: &str) -> bool {
    let Some(at) = text.find(['e', 'E']) else {
        return is_decimal(text);
    };
    let exponent = &text[at + 1..];
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    is_decimal(&text[..at]) && is_decimal(digits) && !digits.contains(['+', '-', '.'])
}
