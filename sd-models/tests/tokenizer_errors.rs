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
    // As many as a folder may want, but none that no text can have.
    let tokens = |length: usize| {
        let tokens: Vec<_> = (0..2000).map(|i| format!("<{i:0>length$}>")).collect();
        serde_json::json!({ "extra_special_tokens": tokens }).to_string()
    };
    let many = open(&with(&tokens(1022))).unwrap();
    let last = format!("ab<{:0>1022}>", 1999);
    assert_eq!(many.encode(&last).unwrap().ids[..4], [5, 4, 2006, 6]);
    let kind: fn(&Error) -> bool = |e| matches!(e, Error::Tokenizer { .. });
    expect(&with(&tokens(1023)), kind, "expected at most 1024");
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

/// The fixtures' vocabulary, with as many tokens as CLIP's for its merges.
fn fixture(name: &str) -> String {
    let folder = sd_fixtures::path("tokenizer");
    fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn merges_that_are_lost_are_noticed() {
    let kind: fn(&Error) -> bool = |e| matches!(e, Error::Tokenizer { .. });
    let (vocab, merges) = (fixture("old/vocab.json"), fixture("old/merges.txt"));
    let lines: Vec<&str> = merges.lines().collect();
    let (all, tokens) = (lines.len() - 1, 1420);
    assert_eq!(tokens, 512 + all + 2);
    let without = |lost: std::ops::Range<usize>| {
        let kept = lines.iter().enumerate().filter(|(n, _)| !lost.contains(n));
        kept.map(|(_, line)| format!("{line}\n"))
            .collect::<String>()
    };
    let count = |count: usize| format!("{count} others");
    for (damaged, message) in [
        (without(61..lines.len()), count(all - 60)),
        (without(all..all + 1), count(1)),
        (without(400..410), count(10)),
        (without(1..lines.len()), count(all)),
        (String::new(), count(all)),
        (merges.replace('\n', "\r"), "end with \\r alone".into()),
    ] {
        let files = [("vocab.json", &*vocab), ("merges.txt", &damaged)];
        expect(&files, kind, &message);
        expect(&files, kind, "merges.txt");
    }

    let mut json: serde_json::Value = serde_json::from_str(&fixture("new/tokenizer.json")).unwrap();
    let merges = json["model"]["merges"].as_array_mut().unwrap();
    merges.truncate(60);
    let lost = count(all - 60);
    expect(&[("tokenizer.json", &json.to_string())], kind, &lost);
}

#[test]
fn line_ends_of_two_characters_give_the_same_ids() {
    let (vocab, merges) = (fixture("old/vocab.json"), fixture("old/merges.txt"));
    let text = "a photograph of unbelievable things";
    let ids = |merges: &str| {
        let tokenizer = open(&[("vocab.json", &vocab), ("merges.txt", merges)]);
        tokenizer.unwrap().encode(text).unwrap().ids
    };
    let expected = ids(&merges);
    assert_eq!(ids(&merges.replace('\n', "\r\n")), expected);
    assert_eq!(ids(merges.trim_end()), expected);
    assert_eq!(ids(merges.trim_start_matches("#version: 0.2\n")), expected);
}

#[test]
fn tokens_without_merges_are_allowed_where_they_are_added_or_the_alphabet_is_not_clips() {
    let mut vocab: serde_json::Map<_, _> =
        serde_json::from_str(&fixture("old/vocab.json")).unwrap();
    vocab.insert("<cat-toy>".into(), 1420.into());
    let vocab = serde_json::Value::from(vocab).to_string();
    let merges = fixture("old/merges.txt");
    let files = [("vocab.json", &*vocab), ("merges.txt", &merges)];
    let kind: fn(&Error) -> bool = |e| matches!(e, Error::Tokenizer { .. });
    expect(&files, kind, "\"<cat-toy>\" the first");
    let added = ("added_tokens.json", r#"{"<cat-toy>": 1420}"#);
    let tokenizer = open(&[files[0], files[1], added]).unwrap();
    assert_eq!(tokenizer.encode("<cat-toy>").unwrap().ids[1], 1420);

    let vocab = VOCAB.replace('{', r#"{"lowest</w>":7,"#);
    open(&[("vocab.json", &vocab), ("merges.txt", MERGES)]).unwrap();
}
