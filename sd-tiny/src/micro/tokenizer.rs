//! CLIP's tokenizer with a vocabulary of single bytes: complete, and without a merge.

use serde_json::{Map, Value};

use super::config;

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// The files of the folder `folder`, of a tokenizer that fills a prompt up to 77 tokens with token
/// `pad`.
pub(super) fn files(folder: &str, pad: usize) -> Vec<(String, Vec<u8>)> {
    let pad = tokens().nth(pad).unwrap_or_else(|| END.into());
    let special = [
        ("bos_token", START),
        ("eos_token", END),
        ("pad_token", &pad),
        ("unk_token", END),
    ];
    let special: Map<String, Value> = special
        .map(|(k, v)| (k.into(), v.into()))
        .into_iter()
        .collect();
    let mut config = special.clone();
    config.insert("model_max_length".into(), 77.into());
    config.insert("tokenizer_class".into(), "CLIPTokenizer".into());
    let vocabulary = tokens().zip((0..).map(Value::from)).collect();
    [
        ("vocab.json", config::bytes(&vocabulary)),
        ("merges.txt", b"#version: 0.2\n".into()),
        ("special_tokens_map.json", config::bytes(&special)),
        ("tokenizer_config.json", config::bytes(&config)),
    ]
    .map(|(name, bytes)| (format!("{folder}/{name}"), bytes))
    .into()
}

/// In the order of CLIP's own vocabulary: the bytes within a word, the bytes that end one, and the
/// two tokens around a prompt.
fn tokens() -> impl Iterator<Item = String> {
    let ends = bytes().map(|c| format!("{c}</w>"));
    let inner = bytes().map(String::from);
    inner.chain(ends).chain([START, END].map(String::from))
}

/// Number of [`tokens`].
pub(super) const COUNT: usize = 2 * 256 + 2;

/// The 256 characters that stand for bytes (Radford et al. 2019, GPT-2): the printable ones for
/// themselves, behind them the others as the characters from U+0100 on.
fn bytes() -> impl Iterator<Item = char> {
    let printable = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ');
    let others = 256 - printable.clone().count() as u32;
    printable.chain((0x100..0x100 + others).filter_map(char::from_u32))
}
