//! Token ids are those of transformers' CLIPTokenizer.

use std::fs;
use std::path::Path;

use sd_fixtures::Fixture;
use sd_models::{ClipTokenizer, Files, Tokens};
use serde_json::Value;

fn strings(value: &Value) -> Vec<Option<String>> {
    let values = value.as_array().unwrap().iter();
    values.map(|v| v.as_str().map(Into::into)).collect()
}

/// Compares every text and reports all that differ.
fn compare(fixture: &Fixture, key: &str, tokenizer: &ClipTokenizer, cut: Option<&Value>) {
    let settings = fixture.settings();
    let texts = strings(&settings["texts"]);
    let cut = cut.map(strings);
    let [count, length] = fixture.shape(key)[..] else {
        panic!("ids have two dimensions");
    };
    assert_eq!((texts.len(), tokenizer.max_length()), (count, length));
    let expected = fixture.f32(key);
    let mut wrong = Vec::new();
    for (i, (text, ids)) in texts.iter().zip(expected.chunks(length)).enumerate() {
        let text = text.as_deref().unwrap();
        let found = tokenizer.encode(text).unwrap();
        let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
        if found.ids != ids {
            wrong.push(format!("{text:?}: {:?}, expected {ids:?}", found.ids));
        }
        if let Some(cut) = &cut
            && found.truncated != cut[i]
        {
            wrong.push(format!(
                "{text:?}: cut {:?}, not {:?}",
                found.truncated, cut[i]
            ));
        }
    }
    let shown = wrong.join("\n");
    assert!(wrong.is_empty(), "{key}: {} differ:\n{shown}", wrong.len());
}

fn open(path: &Path) -> ClipTokenizer {
    ClipTokenizer::open(&Files::directory(path)).unwrap()
}

/// A folder of the older generation: `vocab.json`, `merges.txt` and what `files` holds.
fn old_folder(files: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        let from = sd_fixtures::path("tokenizer/old").join(name);
        fs::copy(from, folder.path().join(name)).unwrap();
    }
    for (name, content) in files.as_object().unwrap() {
        fs::write(folder.path().join(name), content.to_string()).unwrap();
    }
    folder
}

#[test]
fn a_tokenizer_json_gives_the_same_ids() {
    let fixture = Fixture::open("tokenizer");
    let tokenizer = open(&sd_fixtures::path("tokenizer/new"));
    assert!(fixture.shape("new")[0] >= 200);
    compare(
        &fixture,
        "new",
        &tokenizer,
        Some(&fixture.settings()["cut"]),
    );
}

#[test]
fn the_tiny_models_tokenizer_gives_the_same_ids() {
    let fixture = Fixture::open("tokenizer");
    let folder = sd_fixtures::path("../../sd-tiny/model/tokenizer");
    compare(&fixture, "tiny", &open(&folder), None);
}

#[test]
fn every_older_kind_of_folder_gives_the_same_ids() {
    let fixture = Fixture::open("tokenizer_old");
    let settings = fixture.settings();
    let mut kinds = 0;
    for (kind, files) in settings["files"].as_object().unwrap() {
        let folder = old_folder(files);
        let cut = &settings["cut"][kind];
        compare(&fixture, kind, &open(folder.path()), Some(cut));
        kinds += 1;
    }
    assert_eq!(kinds, 5);
}

#[test]
fn both_generations_of_one_vocabulary_agree() {
    let new = open(&sd_fixtures::path("tokenizer/new"));
    let old = open(&sd_fixtures::path("tokenizer/old"));
    for text in strings(&Fixture::open("tokenizer").settings()["texts"]) {
        let text = text.unwrap();
        assert_eq!(
            new.encode(&text).unwrap(),
            old.encode(&text).unwrap(),
            "{text:?}"
        );
    }
}

#[test]
fn merges_may_be_joined_by_a_space() {
    let new = sd_fixtures::path("tokenizer/new");
    let text = fs::read_to_string(new.join("tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    for merge in json["model"]["merges"].as_array_mut().unwrap() {
        let pair = strings(merge);
        let [Some(a), Some(b)] = &pair[..] else {
            panic!("a merge is a pair");
        };
        *merge = format!("{a} {b}").into();
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    let text = "a photograph of unbelievable things";
    let found = open(folder.path()).encode(text).unwrap();
    assert_eq!(found, open(&new).encode(text).unwrap());
}

#[test]
fn what_does_not_fit_is_told() {
    let tokenizer = open(&sd_fixtures::path("tokenizer/new"));
    let Tokens {
        ids,
        truncated: cut,
    } = tokenizer.encode("a cat").unwrap();
    assert_eq!((ids.len(), cut), (77, None));
    let long = format!("{} and the rest, ÄÖ 漢字", "! ".repeat(75));
    let Tokens {
        ids,
        truncated: cut,
    } = tokenizer.encode(&long).unwrap();
    assert_eq!(ids.len(), 77);
    assert_eq!(cut.as_deref(), Some("and the rest, ÄÖ 漢字"));
}
