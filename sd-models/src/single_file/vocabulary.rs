//! CLIP's vocabulary, which no single file has.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::read::GzDecoder;
use serde_json::{Map, Value, json};

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// The merges of CLIP's byte-pair encoding, one a line, from the most frequent on: the part of
/// OpenAI's `bpe_simple_vocab_16e6.txt` that CLIP has (<https://github.com/openai/CLIP>, MIT
/// licence, © 2021 OpenAI), by `fixtures/gen/clip_vocabulary.py`.
static MERGES: &[u8] = include_bytes!("clip_merges.txt.gz");

/// A tokenizer's files by their names: vocabulary and merges.
pub(super) type Files = [(&'static str, Bytes); 2];

/// The files, made anew: whoever needs them twice shares them.
pub(super) fn files() -> io::Result<Files> {
    let mut merges = String::new();
    GzDecoder::new(MERGES).read_to_string(&mut merges)?;
    let made = merges.lines().map(|line| line.replace(' ', ""));
    let ends = bytes().map(|c| format!("{c}</w>"));
    let tokens = bytes().map(String::from).chain(ends).chain(made);
    let tokens = tokens.chain([START, END].map(String::from));
    let vocabulary: Map<String, Value> = tokens.zip((0_u32..).map(Value::from)).collect();
    let vocabulary = Value::Object(vocabulary).to_string();
    Ok([
        ("vocab.json", vocabulary.into()),
        ("merges.txt", merges.into()),
    ])
}

/// Settings of a tokenizer that fills up a prompt with the token `pad`.
pub(super) fn settings(mut settings: Map<String, Value>) -> Value {
    let names = [("bos_token", START), ("eos_token", END), ("unk_token", END)];
    settings.extend(names.map(|(name, token)| (name.into(), token.into())));
    settings.insert("model_max_length".into(), json!(77));
    Value::Object(settings)
}

/// The 256 characters that stand for bytes (Radford et al. 2019, GPT-2): the printable ones for
/// themselves, behind them the others as the characters from U+0100 on.
fn bytes() -> impl Iterator<Item = char> {
    let printable = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ');
    let others = 256 - printable.clone().count() as u32;
    printable.chain((0x100..0x100 + others).filter_map(char::from_u32))
}
