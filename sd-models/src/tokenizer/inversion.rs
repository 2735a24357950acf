//! Words of several vectors, as textual inversion learns them.

use std::collections::HashSet;

/// The added tokens `<word>` after which `<word>_1`, `<word>_2` … go on: one word of several
/// vectors.
#[derive(Debug, Clone)]
pub(super) struct Inversions {
    /// The word and all its tokens in a text, sorted.
    words: Vec<(String, String)>,
    /// All words that were added to the vocabulary, those of one vector too.
    names: HashSet<String>,
}

impl Inversions {
    /// Those among the tokens `added`.
    pub(super) fn new(added: &HashSet<&str>) -> Self {
        let words = added.iter().filter_map(|&word| {
            let following = (1..).map(|number| format!("{word}_{number}"));
            let following = following.take_while(|token| added.contains(token.as_str()));
            let all = following.fold(word.to_string(), |all, token| all + " " + &token);
            (all != word).then(|| (word.into(), all))
        });
        let mut words: Vec<_> = words.collect();
        words.sort();
        let names = added.iter().map(ToString::to_string).collect();
        Self { words, names }
    }

    /// One word more, of `count` tokens.
    pub(super) fn add(&mut self, word: &str, count: usize) {
        let all = (1..count).fold(word.to_string(), |all, number| {
            format!("{all} {word}_{number}")
        });
        if count > 1 {
            self.words.push((word.into(), all));
            self.words.sort();
        }
        self.names.insert(word.into());
    }

    /// `true` of a word that was added to the vocabulary.
    pub(super) fn has(&self, word: &str) -> bool {
        self.names.contains(word)
    }

    /// The text with all tokens of each word that is among its `tokens`; `None` where there is no
    /// such word.
    ///
    /// As in diffusers (`maybe_convert_prompt`) the word is replaced wherever the text has it as it
    /// is spelled in the vocabulary, so `<Word>` stays one token though it is found as `<word>`.
    pub(super) fn expand(&self, text: &str, tokens: &[String]) -> Option<String> {
        let found = self.words.iter().filter(|(word, _)| tokens.contains(word));
        found.fold(None, |expanded, (word, all)| {
            let text = expanded.as_deref().unwrap_or(text);
            Some(text.replace(word, all))
        })
    }

    /// The end of an expanded text as it was written. Where the cut goes through a word, the rest
    /// of its tokens stays.
    pub(super) fn restore(&self, end: String) -> String {
        let words = self.words.iter().rev();
        words.fold(end, |end, (word, all)| end.replace(all, word))
    }
}
