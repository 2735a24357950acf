//! Words of several vectors, learned by textual inversion: as many tokens as diffusers makes of
//! them, from every generation of files.

use std::fs;

use sd_fixtures::Fixture;
use sd_models::{ClipTokenizer, Files};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

fn tiny() -> Value {
    let path = sd_fixtures::path("../../sd-tiny/model/tokenizer/tokenizer.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn folder(files: &[(&str, &Value)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let text = match content {
            Value::String(text) => text.clone(),
            content => content.to_string(),
        };
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn open(folder: &TempDir) -> ClipTokenizer {
    ClipTokenizer::open(&Files::directory(folder.path())).unwrap()
}

/// The tiny model's tokenizer with the fixture's words, from today's kind of folder and two older.
fn generations(fixture: &Fixture) -> [TempDir; 3] {
    let settings = fixture.settings();
    let added = &settings["added_tokens"];
    let mut today = tiny();
    today["added_tokens"] = added.clone();
    let vocab = &today["model"]["vocab"];
    let merges = today["model"]["merges"].as_array().unwrap().iter();
    let merges = merges.map(|m| format!("{} {}\n", m[0].as_str().unwrap(), m[1].as_str().unwrap()));
    let merges = Value::from("#version: 0.2\n".to_string() + &merges.collect::<String>());

    let (mut numbers, mut decoder) = (Map::new(), Map::new());
    for token in added.as_array().unwrap() {
        let content = token["content"].as_str().unwrap();
        decoder.insert(token["id"].to_string(), token.clone());
        if token["special"] == false {
            numbers.insert(content.into(), token["id"].clone());
        }
    }
    let (numbers, decoder) = (
        Value::from(numbers),
        json!({ "added_tokens_decoder": decoder }),
    );
    [
        folder(&[("tokenizer.json", &today)]),
        folder(&[
            ("vocab.json", vocab),
            ("merges.txt", &merges),
            ("tokenizer_config.json", &decoder),
        ]),
        folder(&[
            ("vocab.json", vocab),
            ("merges.txt", &merges),
            ("added_tokens.json", &numbers),
        ]),
    ]
}

#[test]
fn a_word_becomes_as_many_tokens_as_go_on() {
    let fixture = Fixture::open("inversion");
    let settings = fixture.settings();
    let texts = settings["texts"].as_array().unwrap();
    let ids = fixture.values("ids");
    assert_eq!(fixture.shape("ids"), [texts.len(), 77]);
    for (generation, folder) in generations(&fixture).iter().enumerate() {
        let tokenizer = open(folder);
        for (text, expected) in texts.iter().zip(ids.chunks(77)) {
            let text = text.as_str().unwrap();
            let found = tokenizer.encode(text).unwrap().ids;
            let found: Vec<f64> = found.into_iter().map(f64::from).collect();
            assert_eq!(found, expected, "{text:?}, generation {generation}");
        }
    }
}

#[test]
fn what_is_cut_is_told_as_it_was_written() {
    let [folder, ..] = generations(&Fixture::open("inversion"));
    let tokenizer = open(&folder);
    let cut = |text: &str| tokenizer.encode(text).unwrap().truncated;
    assert_eq!(cut(&"<cat-toy> ".repeat(25)), None);
    let behind = "! ".repeat(75) + "a <cat-toy> and <many>";
    assert_eq!(cut(&behind).as_deref(), Some("a <cat-toy> and <many>"));
    // A cut through a word's vectors leaves those that were lost.
    let through = "! ".repeat(73) + "<cat-toy> and a <cat-toy>";
    assert_eq!(
        cut(&through).as_deref(),
        Some("<cat-toy>_2 and a <cat-toy>")
    );
}
