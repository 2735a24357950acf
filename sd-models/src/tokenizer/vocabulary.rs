//! Tokens and merges, from either generation of files.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use serde::Deserialize;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

use super::special::NumberedToken;
use crate::{Error, Files, Result};

const SINGLE: &str = "tokenizer.json";
const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";

/// The tokens of one byte, within a word and at its end, that CLIP's vocabularies begin with.
const CLIP_BYTES: usize = 512;

/// The tables of byte-pair encoding.
pub(super) struct Vocabulary {
    /// The file it came from, for messages.
    pub(super) path: PathBuf,
    /// The file of the merges.
    merges_path: PathBuf,
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
        let text = files.text(MERGES)?;
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
            merges_path: files.path(MERGES),
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
            merges_path: path.clone(),
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

    /// A check that no merges are lost: each token of several characters is what one of them
    /// makes, unless it is among the tokens `added`. For CLIP this says that there are as many
    /// tokens as 512 bytes, the merges and two more.
    ///
    /// Only vocabularies with all of CLIP's bytes promise that. In others a token that no merge
    /// makes is of no use but may be meant, and is a warning.
    pub(super) fn check_merges(&self, added: &HashSet<&str>) -> Result<()> {
        let made = self.merges.iter().map(|(a, b)| format!("{a}{b}"));
        let made: HashSet<String> = made.collect();
        let (mut bytes, mut lost) = (0, Vec::new());
        for (token, id) in &self.tokens {
            let mut word = token.strip_suffix("</w>").unwrap_or(token).chars();
            if word.next().is_some() && word.next().is_none() {
                bytes += 1;
            } else if !made.contains(token) && !added.contains(token.as_str()) {
                lost.push((id, token));
            }
        }
        let Some((_, first)) = lost.iter().min() else {
            return Ok(());
        };
        let reason = format!(
            "{} merges make {} of the vocabulary's {} tokens, and {} others, {first:?} the first, \
             have none (cut short, or lines that end with \\r alone?)",
            self.merges.len(),
            made.len(),
            self.tokens.len(),
            lost.len(),
        );
        if bytes >= CLIP_BYTES {
            return Err(Error::tokenizer(&self.merges_path, reason));
        }
        tracing::warn!("{}: {reason}", self.merges_path.display());
        Ok(())
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
            // Its cache outlives the model: each thread keeps the words of all there ever were.
            .cache_capacity(0)
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
