//! The tokens that are not made of merges: which there are, and how they are found in a text.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::{Error, Files, Result};

const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// The settings that name a token, in the order in which transformers adds them.
const NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// Bytes of the longest added token: to be found in a text they are all made one automaton, in a time
/// that grows with the square of their length.
const LONGEST: usize = 1024;

/// A token as the various files describe it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct TokenSpec {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    /// A search for it in the normalised text; special ones are not by default.
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

impl TokenSpec {
    fn special(content: &str) -> Self {
        Self {
            content: content.into(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: None,
            special: true,
        }
    }

    fn into_added(self) -> AddedToken {
        AddedToken {
            content: self.content,
            single_word: self.single_word,
            lstrip: self.lstrip,
            rstrip: self.rstrip,
            normalized: self.normalized.unwrap_or(!self.special),
            special: self.special,
        }
    }
}

/// A token of `tokenizer.json`'s `added_tokens`.
#[derive(Debug, Deserialize)]
pub(super) struct NumberedToken {
    id: u32,
    #[serde(flatten)]
    token: TokenSpec,
}

/// All special tokens of a tokenizer, and the settings that go with them.
#[derive(Debug)]
pub(super) struct SpecialTokens {
    pub(super) start: String,
    pub(super) end: String,
    pub(super) unknown: String,
    pub(super) pad: String,
    /// In the order in which they are to be added, later ones over earlier ones of that name.
    pub(super) added: Vec<AddedToken>,
    /// `model_max_length`, where the files say it.
    pub(super) max_length: Option<f64>,
}

impl SpecialTokens {
    /// Reads them as transformers' `from_pretrained` does; `numbered` are `tokenizer.json`'s.
    ///
    /// Where `tokenizer_config.json` lists `added_tokens_decoder`, that list is complete.
    /// Otherwise they are gathered from the other files of older folders.
    pub(super) fn read(files: &Files, numbered: Vec<NumberedToken>) -> Result<Self> {
        let mut config = optional(files, CONFIG)?;
        for side in ["padding_side", "truncation_side"] {
            if config.get(side).is_some_and(|value| value != "right") {
                return Err(Error::Unsupported {
                    path: files.path(CONFIG),
                    what: format!("{side} is {}, supported is \"right\"", config[side]),
                });
            }
        }
        let mut listed: BTreeMap<u32, TokenSpec> = BTreeMap::new();
        if let Some(decoder) = config.remove("added_tokens_decoder") {
            listed = parse(files, CONFIG, decoder)?;
        } else {
            config.extend(marked_special(optional(files, MAP)?));
            let contents = NAMES.map(|name| config.get(name).and_then(content_of));
            for (content, id) in optional(files, ADDED)? {
                let special = contents.contains(&Some(&content));
                let id = parse(files, ADDED, id)?;
                let mut token = TokenSpec::special(&content);
                token.special = special;
                listed.insert(id, token);
            }
            listed.extend(numbered.into_iter().map(|t| (t.id, t.token)));
        }
        Self::from_settings(files, &config, listed)
    }

    fn from_settings(
        files: &Files,
        config: &Map<String, Value>,
        listed: BTreeMap<u32, TokenSpec>,
    ) -> Result<Self> {
        let extra = extra(files, config)?;
        let mut named = BTreeMap::new();
        for name in NAMES {
            let token = match config.get(name).filter(|value| !value.is_null()) {
                Some(Value::String(content)) => Some(TokenSpec::special(content)),
                Some(value) => Some(parse(files, CONFIG, value.clone())?),
                None => match name {
                    "bos_token" => Some(TokenSpec::special(START)),
                    "eos_token" | "unk_token" | "pad_token" => Some(TokenSpec::special(END)),
                    _ => None,
                },
            };
            if let Some(token) = token {
                named.insert(name, token);
            }
        }
        let content = |name: &str| named.get(name).map_or(String::new(), |t| t.content.clone());
        let all = named.values().chain(listed.values()).chain(&extra);
        if let Some(long) = all.map(|t| t.content.len()).find(|len| *len > LONGEST) {
            let reason = format!("an added token of {long} bytes, expected at most {LONGEST}");
            return Err(Error::tokenizer(files.path(""), reason));
        }
        Ok(Self {
            start: content("bos_token"),
            end: content("eos_token"),
            unknown: content("unk_token"),
            pad: content("pad_token"),
            max_length: config.get("model_max_length").and_then(Value::as_f64),
            added: in_order(named, listed, extra),
        })
    }
}

/// Listed tokens by number, then the named ones that are not among them, then any further.
fn in_order(
    named: BTreeMap<&str, TokenSpec>,
    listed: BTreeMap<u32, TokenSpec>,
    extra: Vec<TokenSpec>,
) -> Vec<AddedToken> {
    let contents: HashSet<&str> = listed.values().map(|t| t.content.as_str()).collect();
    let is_listed = |token: &TokenSpec| contents.contains(token.content.as_str());
    let names = NAMES.iter().filter_map(|name| named.get(name));
    let unlisted = names.chain(&extra).filter(|token| !is_listed(token));
    let is_named = |token: &TokenSpec| named.values().any(|t| t.content == token.content);
    let all = listed.values().chain(unlisted).cloned();
    all.map(|mut token| {
        token.special |= is_named(&token);
        token.into_added()
    })
    .collect()
}

/// `extra_special_tokens`, once called `additional_special_tokens`.
fn extra(files: &Files, config: &Map<String, Value>) -> Result<Vec<TokenSpec>> {
    let keys = ["extra_special_tokens", "additional_special_tokens"];
    let Some(value) = keys.iter().find_map(|key| config.get(*key)) else {
        return Ok(Vec::new());
    };
    let values = match value {
        Value::Array(values) => values.iter().collect(),
        Value::Object(values) => values.values().collect(),
        _ => Vec::new(),
    };
    let token = |value: &Value| match value {
        Value::String(content) => Ok(TokenSpec::special(content)),
        value => parse(files, CONFIG, value.clone()),
    };
    values.into_iter().map(token).collect()
}

/// In `special_tokens_map.json` everything is special, without saying so.
fn marked_special(mut map: Map<String, Value>) -> Map<String, Value> {
    for value in map.values_mut() {
        if let Value::Object(token) = value {
            token.insert("special".into(), true.into());
        }
    }
    map
}

fn content_of(token: &Value) -> Option<&String> {
    match token {
        Value::String(content) => Some(content),
        Value::Object(token) => content_of(token.get("content")?),
        _ => None,
    }
}

fn optional(files: &Files, name: &str) -> Result<Map<String, Value>> {
    if files.has(name) {
        files.json(name)
    } else {
        Ok(Map::new())
    }
}

fn parse<T: for<'de> Deserialize<'de>>(files: &Files, name: &str, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|source| Error::Json {
        path: files.path(name),
        source,
    })
}
