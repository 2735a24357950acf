//! Tokens and merges, from either generation of files.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Deserialize;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

use super::special::NumberedToken;
use crate::{Error, Files, Result};

const SINGLE: &str = "tokenizer.json";
const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";

/// The tables of byte-pair encoding.
pub(super) struct Vocabulary {
    /// The file it came from, for messages.
    pub(super) path: PathBuf,
    tokens: HashMap<String, u32>,
    merges: Merges,
    /// The added tokens of a `tokenizer.json`.
    pub(super) numbered: Vec<NumberedToken>,
}

/// The parts of `tokenizer.json` that make a CLIP tokenizer. The rest of it, how text is
/// normalised and split, is the same for all and, as in transformers, not taken from the file.
#[derive(Deserialize)]
struct SingleFile {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<NumberedToken>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// A pair; older files join it with a space.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

impl Vocabulary {
    /// From `tokenizer.json` where there is one, otherwise from `vocab.json` and `merges.txt`.
    pub(super) fn read(files: &Files) -> Result<Self> {
        if files.has(SINGLE) {
            return Self::from_single(files);
        }
        if !files.has(VOCAB) {
            let reason = format!("no tokenizer, expected {SINGLE}, or {VOCAB} and {MERGES}");
            return Err(Error::tokenizer(files.path(""), reason));
        }
        let tokens = files.json(VOCAB)?;
        let text = files.read(MERGES)?;
        let text =
            std::str::from_utf8(&text).map_err(|e| Error::tokenizer(files.path(MERGES), e))?;
        let lines = text.lines().enumerate();
        let lines = lines.filter(|(_, line)| !line.starts_with("#version"));
        let merges = lines.map(|(number, line)| {
            split_pair(line).ok_or_else(|| {
                let reason = format!("line {}: expected two tokens", number + 1);
                Error::tokenizer(files.path(MERGES), reason)
            })
        });
        Ok(Self {
            path: files.path(VOCAB),
            tokens,
            merges: merges.collect::<Result<_>>()?,
            numbered: Vec::new(),
        })
    }

    fn from_single(files: &Files) -> Result<Self> {
        let path = files.path(SINGLE);
        let SingleFile {
            model,
            added_tokens,
        } = files.json(SINGLE)?;
        if let Some(kind) = model.kind.filter(|kind| kind != "BPE") {
            let what = format!("a tokenizer of type {kind}, supported is BPE");
            return Err(Error::Unsupported { path, what });
        }
        let merges = model.merges.into_iter().map(|merge| match merge {
            Merge::Pair(a, b) => Ok((a, b)),
            Merge::Joined(line) => split_pair(&line).ok_or_else(|| {
                Error::tokenizer(&path, format!("merge {line:?}: expected two tokens"))
            }),
        });
        Ok(Self {
            merges: merges.collect::<Result<_>>()?,
            tokens: model.vocab,
            numbered: added_tokens,
            path,
        })
    }

    /// The number of a token that there must be; `role` says what for.
    pub(super) fn require(&self, token: &str, role: &str) -> Result<u32> {
        let id = self.tokens.get(token).copied();
        id.ok_or_else(|| {
            let reason = format!("the {role} token {token:?} is not in the vocabulary");
            Error::tokenizer(&self.path, reason)
        })
    }

    /// The model that splits a word into tokens.
    pub(super) fn into_model(self, unknown: &str) -> Result<BPE> {
        // The builder takes for granted that a merge's result is a token.
        let mut merged = String::new();
        for (a, b) in &self.merges {
            merged.clear();
            merged.push_str(a);
            merged.push_str(b);
            let parts = [a.as_str(), b, &merged];
            if let Some(token) = parts.iter().find(|t| !self.tokens.contains_key(**t)) {
                let reason = format!("merge {a:?} {b:?}: {token:?} is not in the vocabulary");
                return Err(Error::tokenizer(&self.path, reason));
            }
        }
        let tokens: Vocab = self.tokens.into_iter().collect();
        BPE::builder()
            .vocab_and_merges(tokens, self.merges)
            .unk_token(unknown.into())
            .continuing_subword_prefix(String::new())
            .end_of_word_suffix("</w>".into())
            .build()
            .map_err(|e| Error::tokenizer(self.path, e))
    }
}

fn split_pair(line: &str) -> Option<(String, String)> {
    let (a, b) = line.split_once(' ')?;
    (!b.contains(' ')).then(|| (a.into(), b.into()))
}
