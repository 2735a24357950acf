//! compel's grammar: of several readings of a text the first one that its parser tries.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::words::{free_word, keyword, literal, number, quoted, signs, skip, word};
use crate::python::{float, is_space};

/// Brackets that may lie in one another; compel's own reader takes minutes for a dozen.
const DEEPEST: usize = 64;

/// A piece of text, or several with a weight. A copy is cheap, for many rules begin alike.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(Rc<str>),
    Group(f64, Rc<[Node]>),
}

impl Node {
    fn text(text: String) -> Self {
        Self::Text(text.into())
    }

    /// Several as one.
    fn group(nodes: Vec<Self>) -> Self {
        Self::Group(1.0, nodes.into())
    }
}

/// What a whole prompt is.
pub(super) enum Top {
    Conjunction {
        texts: Vec<Vec<Node>>,
        weights: Vec<f64>,
    },
    Blend {
        texts: Vec<Vec<Node>>,
        weights: Vec<f64>,
        normalizes: bool,
    },
    Text(Vec<Node>),
}

/// A place that cannot be read.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Byte of the reader's text.
    pub(super) at: usize,
    pub(super) expected: String,
}

impl Refusal {
    pub(super) fn new(at: usize, expected: impl Into<String>) -> Self {
        let expected = expected.into();
        Self { at, expected }
    }
}

/// A rule's end and what it found; `None` where the text does not follow it.
type Found<T> = Result<Option<(usize, T)>, Refusal>;

/// First word of an option, as in `0.5` or `no_normalize`.
enum Choice {
    Number(f64),
    Word(String),
}

pub(super) struct Reader<'a> {
    text: &'a str,
    /// Brackets around the one that is read.
    depth: usize,
    /// What brackets were found to be, by their place: many rules begin with one.
    brackets: HashMap<usize, Option<(usize, Node)>>,
    /// What quoted texts were found to be, by their place and whether they are free.
    quotes: HashMap<(usize, bool), Option<(usize, Node)>>,
    /// Places where nothing is swapped.
    unswapped: HashSet<usize>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            depth: 0,
            brackets: HashMap::new(),
            quotes: HashMap::new(),
            unswapped: HashSet::new(),
        }
    }

    /// The whole text.
    pub(super) fn top(&mut self) -> Result<Top, Refusal> {
        if let Some((at, texts)) = self.list(0)?
            && let Some(at) = literal(self.text, at, ".and").or(literal(self.text, at, ".add"))
            && let Some((_, choices)) = self.arguments(at)
        {
            // What is behind it is not read.
            let weights = weights(&choices)?;
            return Ok(Top::Conjunction { texts, weights });
        }
        self.refuse_network(0)?;
        if let Some((at, texts)) = self.list(0)?
            && let Some(at) = literal(self.text, at, ".blend")
            && let Some((at, mut choices)) = self.arguments(at)
        {
            let flag = |choice: &Choice| matches!(choice, Choice::Word(w) if w == "no_normalize");
            let normalizes = !choices.last().is_some_and(flag);
            if !normalizes {
                choices.pop();
            }
            let weights = weights(&choices)?;
            self.end(at)?;
            return Ok(Top::Blend {
                texts,
                weights,
                normalizes,
            });
        }
        let (at, nodes) = self.prompt(0)?;
        self.end(at)?;
        Ok(Top::Text(nodes))
    }

    fn end(&mut self, at: usize) -> Result<(), Refusal> {
        let at = skip(self.text, at);
        self.refuse_network(at)?;
        match at == self.text.len() {
            true => Ok(()),
            false => Err(Refusal::new(at, "expected the end of the prompt")),
        }
    }

    /// `(0.5, 0.5)`
    fn arguments(&self, at: usize) -> Option<(usize, Vec<Choice>)> {
        let at = literal(self.text, at, "(")?;
        let (at, choices) = self.choices(at);
        Some((literal(self.text, at, ")")?, choices))
    }

    fn choices(&self, mut at: usize) -> (usize, Vec<Choice>) {
        let mut choices = Vec::new();
        let mut next = at;
        while let Some((end, choice)) = self.choice(next) {
            choices.push(choice);
            at = end;
            match literal(self.text, at, ",") {
                Some(comma) => next = comma,
                None => break,
            }
        }
        (at, choices)
    }

    fn choice(&self, at: usize) -> Option<(usize, Choice)> {
        let text = self.text;
        let named = keyword(text, at).and_then(|(at, name)| {
            let at = literal(text, at, "=")?;
            let end = number(text, at).map(|(end, _)| end);
            let end = end.or_else(|| keyword(text, at).map(|(end, _)| end))?;
            Some((end, Choice::Word(name.into())))
        });
        let number = || number(text, at).map(|(at, value)| (at, Choice::Number(value)));
        let flag = || keyword(text, at).map(|(at, name)| (at, Choice::Word(name.into())));
        named.or_else(number).or_else(flag)
    }

    /// `("a", "b")`
    fn list(&mut self, at: usize) -> Found<Vec<Vec<Node>>> {
        let Some(mut at) = literal(self.text, at, "(") else {
            return Ok(None);
        };
        let mut texts = Vec::new();
        loop {
            let found = match self.target(at)? {
                Some(found) => Some(found),
                None => self.quoted(at, true)?,
            };
            let Some((end, node)) = found else {
                return Ok(None);
            };
            texts.push(vec![node]);
            at = end;
            match literal(self.text, at, ",") {
                Some(comma) => at = comma,
                None => break,
            }
        }
        Ok(literal(self.text, at, ")").map(|at| (at, texts)))
    }

    /// A text in which what follows no rule is text.
    fn prompt(&mut self, mut at: usize) -> Result<(usize, Vec<Node>), Refusal> {
        let mut nodes = Vec::new();
        loop {
            self.refuse_swap(at)?;
            self.refuse_network(at)?;
            let found = match self.attention(at)? {
                Some(found) => Some(found),
                None => self.quoted_or_bracket(at)?,
            };
            let found = found.map(|(at, node)| (at, Some(node)));
            let free = || free_word(self.text, at).map(|(at, word)| (at, Some(Node::text(word))));
            let white = || (skip(self.text, at), None);
            let (end, found) = found.or_else(free).unwrap_or_else(white);
            if end == at {
                break;
            }
            nodes.extend(found);
            at = end;
        }
        Ok((at, nodes))
    }

    /// A text in which all follows the rules.
    fn fragments(&mut self, mut at: usize, commas: bool) -> Result<(usize, Vec<Node>), Refusal> {
        let mut nodes = Vec::new();
        loop {
            self.refuse_network(at)?;
            let found = match self.attention(at)? {
                Some(found) => Some(found),
                None => {
                    self.refuse_swap(at)?;
                    self.quoted_or_bracket(at)?
                }
            };
            let text = |(at, text)| (at, Node::text(text));
            let plain = || word(self.text, at).map(text);
            let sign = || {
                let signs = [",", "."].into_iter().filter(|_| commas);
                let mut found =
                    signs.filter_map(|sign| Some((literal(self.text, at, sign)?, sign.into())));
                found.next().map(text)
            };
            let Some((end, found)) = found.or_else(plain).or_else(sign) else {
                break;
            };
            nodes.push(found);
            at = end;
        }
        Ok((at, nodes))
    }

    fn quoted_or_bracket(&mut self, at: usize) -> Found<Node> {
        match self.quoted(at, false)? {
            Some(found) => Ok(Some(found)),
            None => self.bracket(at),
        }
    }

    /// What a weight may be of.
    fn target(&mut self, at: usize) -> Found<Node> {
        let found = self.quoted_or_bracket(at)?;
        let word = || word(self.text, at).map(|(at, word)| (at, Node::text(word)));
        Ok(found.or_else(word))
    }

    /// `"a b"`: of a text that follows the rules, or a `free` one.
    fn quoted(&mut self, at: usize, free: bool) -> Found<Node> {
        let key = (skip(self.text, at), free);
        if let Some(found) = self.quotes.get(&key) {
            return Ok(found.clone());
        }
        let found = self.unknown_quoted(at, free)?;
        self.quotes.insert(key, found.clone());
        Ok(found)
    }

    fn unknown_quoted(&mut self, at: usize, free: bool) -> Found<Node> {
        let Some((end, inner)) = quoted(self.text, at) else {
            return Ok(None);
        };
        if inner.chars().all(is_space) {
            return Ok(Some((end, Node::text(String::new()))));
        }
        let inner = inner.replace('"', "\\\"").replace('\t', " ");
        let mut reader = Reader::new(&inner);
        reader.depth = self.depth;
        let read = match free {
            true => reader.prompt(0),
            false => reader.fragments(0, true),
        };
        // Its places are not those of this text.
        let (inner_end, nodes) = read.map_err(|refusal| Refusal { at, ..refusal })?;
        let is_whole = skip(&inner, inner_end) == inner.len();
        Ok(is_whole.then(|| (end, Node::group(nodes))))
    }

    /// `(a b)`
    fn bracket(&mut self, at: usize) -> Found<Node> {
        let Some(inner) = literal(self.text, at, "(") else {
            return Ok(None);
        };
        if let Some(found) = self.brackets.get(&inner) {
            return Ok(found.clone());
        }
        let (end, nodes) = self.within(inner, true)?;
        let found = literal(self.text, end, ")").map(|end| (end, Node::group(nodes)));
        self.brackets.insert(inner, found.clone());
        Ok(found)
    }

    /// The fragments behind the opening bracket that ends at `inner`.
    fn within(&mut self, inner: usize, commas: bool) -> Result<(usize, Vec<Node>), Refusal> {
        if self.depth == DEEPEST {
            let expected = format!("expected at most {DEEPEST} brackets in one another");
            return Err(Refusal::new(inner - 1, expected));
        }
        self.depth += 1;
        let found = self.fragments(inner, commas)?;
        self.depth -= 1;
        Ok(found)
    }

    /// A text with a weight.
    fn attention(&mut self, at: usize) -> Found<Node> {
        let group = |(end, weight), node| Some((end, Node::Group(weight, Rc::new([node]))));
        let text = self.text;
        let weight = |at| signs(text, at).or_else(|| number(text, at));
        if let Some((at, node)) = self.target(at)? {
            let explicit = || {
                let at = literal(text, literal(text, at, ".attend")?, "(")?;
                let (at, weight) = weight(at)?;
                Some((literal(text, at, ")")?, weight))
            };
            if let Some(found) = explicit() {
                return Ok(group(found, node));
            }
        }
        let is_apart = |at: usize| skip(text, at) > at;
        if let Some((at, node)) = self.quoted_or_bracket(at)?
            && !is_apart(at)
            && let Some(found) = weight(at)
        {
            return Ok(group(found, node));
        }
        if let Some((at, word)) = word(text, at)
            && !is_apart(at)
            && let Some(found) = signs(text, at)
        {
            return Ok(group(found, Node::text(word)));
        }
        Ok(None)
    }

    /// Refuses `a.swap(b)`.
    fn refuse_swap(&mut self, at: usize) -> Result<(), Refusal> {
        let Some((end, _)) = self.target(at)? else {
            return Ok(());
        };
        let Some(inner) =
            literal(self.text, end, ".swap").and_then(|at| literal(self.text, at, "("))
        else {
            return Ok(());
        };
        if self.unswapped.contains(&inner) {
            return Ok(());
        }
        let place = inner;
        let (mut inner, _) = self.within(inner, false)?;
        if let Some(comma) = literal(self.text, inner, ",") {
            inner = self.choices(comma).0;
        }
        match literal(self.text, inner, ")") {
            Some(_) => {
                let at = skip(self.text, at);
                Err(Refusal::new(
                    at,
                    "expected no .swap(): attention maps are not changed",
                ))
            }
            None => {
                self.unswapped.insert(place);
                Ok(())
            }
        }
    }

    /// Refuses `withLora(name, 0.5)`.
    fn refuse_network(&self, at: usize) -> Result<(), Refusal> {
        let text = self.text;
        let found = ["useLora", "withLora"].into_iter().find_map(|name| {
            let inner = literal(text, literal(text, at, name)?, "(")?;
            let (mut end, _) = keyword(text, inner)?;
            if let Some((behind, _)) = literal(text, end, ",").and_then(|at| number(text, at)) {
                end = behind;
            }
            literal(text, end, ")")
        });
        match found {
            Some(_) => {
                let expected =
                    "a network named in a prompt is not loaded; expected a prompt without it";
                Err(Refusal::new(skip(text, at), expected))
            }
            None => Ok(()),
        }
    }
}

/// The numbers that `choices` are.
fn weights(choices: &[Choice]) -> Result<Vec<f64>, Refusal> {
    let weight = |choice: &Choice| {
        let value = match choice {
            Choice::Number(value) => Some(*value),
            Choice::Word(word) => float(word),
        };
        let value = value.filter(|value| value.is_finite());
        value.ok_or_else(|| Refusal::new(0, "expected numbers as weights"))
    };
    choices.iter().map(weight).collect()
}
