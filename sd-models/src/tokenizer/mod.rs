//! CLIP's tokenizer: text to token ids.

mod inversion;
mod special;
mod steps;
mod vocabulary;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use tokenizers::{AddedToken, Encoding};

use self::inversion::Inversions;
use self::special::SpecialTokens;
use self::vocabulary::Vocabulary;
use crate::{Error, Files, Result};

/// Every Stable Diffusion model's prompt length.
const DEFAULT_LENGTH: usize = 77;

/// CLIP's tokenizer: byte-pair encoding of lower-cased words, the same ids as transformers'
/// `CLIPTokenizer` gives.
///
/// A word of several vectors, learned by textual inversion and saved as the added tokens `<word>`,
/// `<word>_1`, `<word>_2` …, is written as the first of them and stands for all, as in diffusers.
#[derive(Debug, Clone)]
pub struct ClipTokenizer {
    inner: steps::Tokenizer,
    path: PathBuf,
    /// Words of several vectors among the added tokens.
    inversions: Inversions,
    max_length: usize,
    start: u32,
    end: u32,
    pad: u32,
}

/// A text as a [`ClipTokenizer`] gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The start token, the text's tokens, the end token and padding:
    /// [`max_length`](ClipTokenizer::max_length) ids.
    pub ids: Vec<u32>,
    /// The end of the text that did not fit, as it was written.
    pub truncated: Option<String>,
}

impl ClipTokenizer {
    /// Reads a model's `tokenizer` folder: `tokenizer.json`, or `vocab.json` and `merges.txt`,
    /// and beside them, where they exist, `tokenizer_config.json`, `special_tokens_map.json` and
    /// `added_tokens.json`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`] and [`Error::Tokenizer`] when files are missing, are not
    /// what they should be, or do not name a start, end, unknown and padding token of the
    /// vocabulary; [`Error::Config`] when `model_max_length` is out of range;
    /// [`Error::Unsupported`] when they are of another kind of tokenizer.
    pub fn open(files: &Files) -> Result<Self> {
        let mut vocabulary = Vocabulary::read(files)?;
        let special = SpecialTokens::read(files, std::mem::take(&mut vocabulary.numbered))?;
        let path = vocabulary.path.clone();
        let start = vocabulary.require(&special.start, "start")?;
        let end = vocabulary.require(&special.end, "end")?;
        let pad = vocabulary.require(&special.pad, "padding")?;
        vocabulary.require(&special.unknown, "unknown")?;
        let added: HashSet<&str> = special.added.iter().map(|t| t.content.as_str()).collect();
        vocabulary.check_merges(&added)?;
        let inversions = Inversions::new(&added);
        let max_length = max_length(files, special.max_length)?;
        let model = vocabulary.into_model(&special.unknown)?;
        Ok(Self {
            inner: steps::assemble(model, special).map_err(|e| Error::tokenizer(&path, e))?,
            path,
            inversions,
            max_length,
            start,
            end,
            pad,
        })
    }

    /// The same with the word `word` of `count` tokens, and the number of the first of them; the
    /// others follow it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for a word that is empty, has white space in it, or is already in the
    /// vocabulary.
    pub(crate) fn with_word(&self, word: &str, count: usize) -> Result<(Self, usize)> {
        let mut with = self.clone();
        if word.is_empty() || word.contains(char::is_whitespace) {
            let reason = format!("{word:?} cannot be a word: expected one without white space");
            return Err(Error::tokenizer(&self.path, reason));
        }
        let tokens = (0..count).map(|number| {
            let token = match number {
                0 => word.to_string(),
                number => format!("{word}_{number}"),
            };
            if self.inner.token_to_id(&token).is_some() {
                let reason = format!("{token:?} is a word of the vocabulary already");
                return Err(Error::tokenizer(&self.path, reason));
            }
            Ok(AddedToken::from(token, false))
        });
        let added = with.inner.add_tokens(tokens.collect::<Result<Vec<_>>>()?);
        added.map_err(|e| Error::tokenizer(&self.path, e))?;
        with.inversions.add(word, count);
        match with.inner.token_to_id(word) {
            Some(first) => Ok((with, first as usize)),
            None => Err(Error::tokenizer(
                &self.path,
                format!("{word:?} cannot be added"),
            )),
        }
    }

    /// The file of the vocabulary.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of ids of every text, 77 in Stable Diffusion.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Turns a text into [`max_length`](Self::max_length) ids; what does not fit is cut at the
    /// end of the text.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the vocabulary cannot express the text, which one with all 256
    /// bytes can.
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        let (encoding, expanded) = self.encoding(text)?;
        let text = expanded.as_deref().unwrap_or(text);
        let room = self.max_length - 2;
        let words = encoding.get_ids();
        let kept = &words[..words.len().min(room)];
        let mut ids = Vec::with_capacity(self.max_length);
        ids.push(self.start);
        ids.extend(kept);
        ids.push(self.end);
        ids.resize(self.max_length, self.pad);
        let first_cut = encoding.get_offsets().get(room);
        Ok(Tokens {
            ids,
            truncated: first_cut.map(|&(start, _)| self.inversions.restore(tail(text, start))),
        })
    }

    /// The ids of a text alone, however many there are.
    pub(crate) fn words(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encoding(text)?.0.get_ids().to_vec())
    }

    /// `true` of a word that the vocabulary was taught.
    pub(crate) fn is_taught(&self, word: &str) -> bool {
        self.inversions.has(word)
    }

    /// The start, end and padding tokens.
    pub(crate) fn frame(&self) -> Frame {
        let (start, end, pad) = (self.start, self.end, self.pad);
        Frame { start, end, pad }
    }

    /// The id of a token as the vocabulary spells it.
    pub(crate) fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id as the vocabulary spells it.
    pub(crate) fn token_of(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The encoding of a text, and the text with all tokens of its words of several, if it has some.
    fn encoding(&self, text: &str) -> Result<(Encoding, Option<String>)> {
        let encode = |text: &str| {
            let encoding = self.inner.encode(text, false);
            encoding.map_err(|e| Error::tokenizer(&self.path, e))
        };
        let encoding = encode(text)?;
        let expanded = self.inversions.expand(text, encoding.get_tokens());
        Ok(match expanded {
            Some(text) => (encode(&text)?, Some(text)),
            None => (encoding, None),
        })
    }
}

/// The tokens that every text has beside its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) pad: u32,
}

/// The text from byte `start` on. A token may begin inside a character of several bytes.
fn tail(text: &str, start: usize) -> String {
    text[text.floor_char_boundary(start)..].trim().into()
}

/// transformers writes a huge number for "no limit".
fn max_length(files: &Files, found: Option<f64>) -> Result<usize> {
    match found {
        None => Ok(DEFAULT_LENGTH),
        Some(length) if length >= 1e9 => Ok(DEFAULT_LENGTH),
        Some(length) if (3.0..=65536.0).contains(&length) && length.fract() == 0.0 => {
            Ok(length as usize)
        }
        Some(length) => {
            let file = files.path("tokenizer_config.json");
            let expected = "expected a whole number from 3 to 65536";
            Err(Error::config(file, "model_max_length", length, expected))
        }
    }
}
