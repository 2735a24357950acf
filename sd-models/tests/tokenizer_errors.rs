//! Tokenizer folders that are not what they should be.

use std::fs;

use sd_models::{ClipTokenizer, Error, Files};
use tempfile::TempDir;

const VOCAB: &str =
    r#"{"!":0,"a":1,"a</w>":2,"b</w>":3,"ab</w>":4,"<|startoftext|>":5,"<|endoftext|>":6}"#;
const MERGES: &str = "#version: 0.2\na b</w>\n";

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn open(files: &[(&str, &str)]) -> Result<ClipTokenizer, Error> {
    ClipTokenizer::open(&Files::directory(folder(files).path()))
}

#[track_caller]
fn expect(files: &[(&str, &str)], kind: fn(&Error) -> bool, message: &str) {
    let error = open(files).unwrap_err();
    assert!(kind(&error), "{error:?}");
    assert!(error.to_string().contains(message), "{error}");
}

/// The smallest sound folder and a `tokenizer_config.json`.
fn with(config: &str) -> [(&str, &str); 3] {
    [
        ("vocab.json", VOCAB),
        ("merges.txt", MERGES),
        ("tokenizer_config.json", config),
    ]
}

#[test]
fn the_smallest_sound_folder_opens() {
    let tokenizer = open(&[("vocab.json", VOCAB), ("merges.txt", MERGES)]).unwrap();
    let ids = tokenizer.encode("ab a").unwrap().ids;
    assert_eq!(ids[..5], [5, 4, 2, 6, 6]);
    assert_eq!(ids.len(), 77);
}

#[test]
fn missing_files_are_named() {
    let io: fn(&Error) -> bool = |e| matches!(e, Error::Io { .. });
    let tokenizer: fn(&Error) -> bool = |e| matches!(e, Error::Tokenizer { .. });
    expect(
        &[],
        tokenizer,
        "expected tokenizer.json, or vocab.json and merges.txt",
    );
    expect(&[("merges.txt", MERGES)], tokenizer, "no tokenizer");
    expect(&[("vocab.json", VOCAB)], io, "merges.txt");
}

#[test]
fn what_is_not_json_of_the_right_form_is_an_error() {
    let json: fn(&Error) -> bool = |e| matches!(e, Error::Json { .. });
    let deep = "[".repeat(200_000);
    for text in [
        "",
        "{",
        "[]",
        "null",
        r#"{"a": -1}"#,
        r#"{"a": 4294967296}"#,
        &deep,
    ] {
        expect(
            &[("vocab.json", text), ("merges.txt", MERGES)],
            json,
            "vocab.json",
        );
    }
    for text in [
        "",
        "{}",
        "[]",
        r#"{"model": {}}"#,
        r#"{"model": {"vocab": []}}"#,
        &deep,
    ] {
        expect(&[("tokenizer.json", text)], json, "tokenizer.json");
    }
    for text in [
        "",
        "[]",
        "{",
        r#"{"bos_token": 3}"#,
        r#"{"added_tokens_decoder": {"x": 1}}"#,
    ] {
        expect(&with(text), json, "tokenizer_config.json");
    }
}

#[test]
fn a_vocabulary_without_a_token_it_needs_is_an_error() {
    let kind: fn(&Error) -> bool = |e| matches!(e, Error::Tokenizer { .. });
    for (role, token) in [("start", "<|startoftext|>"), ("end", "<|endoftext|>")] {
        let vocab = VOCAB.replace(token, "other");
        let message = format!("the {role} token {token:?} is not in the vocabulary");
        expect(
            &[("vocab.json", &vocab), ("merges.txt", MERGES)],
            kind,
            &message,
        );
    }
    expect(
        &with(r#"{"pad_token": "<pad>"}"#),
        kind,
        "padding token \"<pad>\"",
    );
    expect(
        &with(r#"{"unk_token": "<unk>"}"#),
        kind,
        "unknown token \"<unk>\"",
    );
}

#[test]
fn merges_that_the_vocabulary_does_not_know_are_errors() {
    let kind: fn(&Error) -> bool = |e| matches!(e, Error::Tokenizer { .. });
    // The last: both parts are tokens, and longer together than any.
    for merges in ["a c\n", "a a\n", "<|startoftext|> <|endoftext|>\n"] {
        expect(
            &[("vocab.json", VOCAB), ("merges.txt", merges)],
            kind,
            "is not in the vocabulary",
        );
    }
    for merges in ["ab\n", "a b c\n", "#version: 0.2\n\n"] {
        expect(
            &[("vocab.json", VOCAB), ("merges.txt", merges)],
            kind,
            "expected two tokens",
        );
    }
}

#[test]
fn settings_out_of_range_are_errors() {
    let config: fn(&Error) -> bool = |e| matches!(e, Error::Config { .. });
    let unsupported: fn(&Error) -> bool = |e| matches!(e, Error::Unsupported { .. });
    for value in ["0", "2", "-1", "65537", "76.5"] {
        let settings = format!("{{\"model_max_length\": {value}}}");
        expect(&with(&settings), config, "model_max_length");
    }
    let unlimited = r#"{"model_max_length": 1000000000000000019884624838656}"#;
    assert_eq!(open(&with(unlimited)).unwrap().max_length(), 77);
    expect(
        &with(r#"{"padding_side": "left"}"#),
        unsupported,
        "padding_side",
    );
    let unigram = r#"{"model": {"type": "Unigram", "vocab": {}, "merges": []}}"#;
    expect(&[("tokenizer.json", unigram)], unsupported, "Unigram");
}
