//! Files that are there and are not what they are called: what is said of them.

use std::fs;
use std::path::Path;

use sd_models::{ClipTokenizer, Error, FileKind, Files, Weights};
use serde_json::Value;

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\n\
                       oid sha256:1b134cded8eb78b184aefb8805b6b572f36fa77b255c483665dda931fa0130c5\n\
                       size 3438167540\n";
const PAGE: &str =
    "\n<!DOCTYPE html>\n<html class=\"\">\n<head><title>Sign in</title></head></html>";
const XML: &str = "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>";

/// The kind that weights of these bytes are said to be of, on disk and in memory, and the message.
fn refused(bytes: &[u8]) -> (FileKind, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    let kind = |error| match error {
        Error::Kind { path, found, .. } => {
            assert!(path.ends_with("model.safetensors"));
            found
        }
        error => panic!("{error:?}"),
    };
    let error = Weights::open(&path).unwrap_err();
    let message = error.to_string();
    let found = kind(error);
    let memory = Weights::from_bytes("model.safetensors", bytes.to_vec());
    assert_eq!(kind(memory.unwrap_err()), found);
    (found, message)
}

#[test]
fn weights_that_are_a_pointer_are_said_to_be_with_the_size_it_promises() {
    let size = Some(3_438_167_540);
    for pointer in [
        POINTER.to_string(),
        POINTER.replace('\n', "\r\n"),
        POINTER.replace("git-lfs.github.com", "hawser.github.com"),
    ] {
        let (found, message) = refused(pointer.as_bytes());
        assert_eq!(found, FileKind::LfsPointer { size });
        assert!(message.contains("Git LFS pointer"), "{message}");
        assert!(message.contains("3438167540 bytes"), "{message}");
        assert!(message.ends_with("expected safetensors"), "{message}");
    }
    let cut = POINTER.split("size").next().unwrap();
    let (found, _) = refused(cut.as_bytes());
    assert_eq!(found, FileKind::LfsPointer { size: None });
}

#[test]
fn weights_that_are_something_else_are_said_to_be() {
    let (found, message) = refused(PAGE.as_bytes());
    assert_eq!(found, FileKind::WebPage);
    assert!(message.contains("a web page"), "{message}");
    assert_eq!(refused(XML.as_bytes()).0, FileKind::WebPage);
    assert_eq!(refused(b"<HTML><body>").0, FileKind::WebPage);
    assert_eq!(refused(b"\x1f\x8b\x08\0\0\0\0\0\0").0, FileKind::Gzip);
    let mut tar = vec![b'a'; 512];
    tar[257..262].copy_from_slice(b"ustar");
    assert_eq!(refused(&tar).0, FileKind::Tar);
    let answer = br#"{"error":"Invalid credentials"}"#;
    assert_eq!(refused(answer).0, FileKind::Json);
    // These can be opened, whatever they are called, and say themselves what is wrong with them.
    for (bytes, words) in [
        (
            &b"PK\x03\x04\0\0\0\0archive/data.pkl"[..],
            "not a sound PyTorch checkpoint",
        ),
        (
            b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j",
            "not a sound PyTorch checkpoint",
        ),
        (b"GGUF\x03\0\0\0\0\0", "not a sound GGUF file"),
    ] {
        let error = Weights::from_bytes("model.safetensors", bytes.to_vec()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    let (_, message) = refused(b"Entry not found\n");
    assert!(message.contains("\"Entry not found\""), "{message}");
    // A long first line is cut, and between characters.
    let (found, _) = refused("漢字".repeat(1000).as_bytes());
    assert_eq!(found, FileKind::Text("漢字".repeat(30)));
}

#[test]
fn json_and_text_that_are_a_pointer_or_a_page_are_said_to_be() {
    let vocab = fs::read(sd_fixtures::path("tokenizer/old/vocab.json")).unwrap();
    for content in [POINTER, PAGE, XML] {
        let files = Files::memory([("config.json", content)]);
        let error = files.json::<Value>("config.json").unwrap_err();
        assert!(matches!(error, Error::Kind { .. }), "{error:?}");
        assert!(error.to_string().starts_with("config.json: a "), "{error}");
        assert!(error.to_string().ends_with("expected JSON"), "{error}");

        let index = Files::memory([("model.safetensors.index.json", content)]);
        let error = index.weights("model", None).unwrap_err();
        assert!(matches!(error, Error::Kind { .. }), "{error:?}");

        let tokenizer = Files::memory([("tokenizer.json", content)]);
        let error = ClipTokenizer::open(&tokenizer).unwrap_err();
        assert!(matches!(error, Error::Kind { .. }), "{error:?}");

        let merges = [
            ("vocab.json", vocab.clone()),
            ("merges.txt", content.as_bytes().to_vec()),
        ];
        let error = ClipTokenizer::open(&Files::memory(merges)).unwrap_err();
        assert!(matches!(error, Error::Kind { .. }), "{error:?}");
        assert!(error.to_string().contains("merges.txt"), "{error}");
    }
    // What is nearly JSON keeps the place of its fault.
    let files = Files::memory([("config.json", "{\"a\": 1,}")]);
    let error = files.json::<Value>("config.json").unwrap_err();
    assert!(error.to_string().contains("column 9"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_nowhere_is_not_a_file_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let link = |name: &str| {
        let target = Path::new("../../blobs/0a1b");
        std::os::unix::fs::symlink(target, folder.path().join(name)).unwrap();
    };
    let broken = |error: Error, name: &str| {
        assert!(matches!(error, Error::BrokenLink { .. }), "{error:?}");
        let message = format!("{name}: a link to ../../blobs/0a1b, which is not there");
        assert!(error.to_string().ends_with(&message), "{error}");
    };
    let files = Files::directory(folder.path());
    link("model.safetensors");
    broken(
        files.weights("model", None).unwrap_err(),
        "model.safetensors",
    );
    link("config.json");
    broken(
        files.json::<Value>("config.json").unwrap_err(),
        "config.json",
    );
    // A tokenizer does without this file, but not without one that it was to have.
    for name in ["vocab.json", "merges.txt"] {
        let from = sd_fixtures::path("tokenizer/old").join(name);
        fs::copy(from, folder.path().join(name)).unwrap();
    }
    ClipTokenizer::open(&files).unwrap();
    link("special_tokens_map.json");
    broken(
        ClipTokenizer::open(&files).unwrap_err(),
        "special_tokens_map.json",
    );
}

/// A safetensors file begins with the length of its header, which may look like anything.
#[test]
fn a_safetensors_file_whose_header_looks_like_a_pickle_is_none() {
    for length in [0x0280, 0x0380, 0x0480, 0x0580, 0x8b1f] {
        let header = format!("{:length$}", "{}");
        let mut bytes = (length as u64).to_le_bytes().to_vec();
        bytes.extend(header.into_bytes());
        assert_eq!(FileKind::of_bytes(&bytes), FileKind::Safetensors);
        assert!(Weights::from_bytes("model", bytes).unwrap().is_empty());
    }
}
