//! The examples as programs, and models for them.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Cargo builds the examples before it runs a package's tests.
pub(crate) fn example(name: &str, folder: &Path, arguments: &[&str]) -> Command {
    let test = std::env::current_exe().expect("the test's own path");
    let examples = test
        .ancestors()
        .nth(2)
        .expect("target/<profile>")
        .join("examples");
    let program: PathBuf = examples.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(program.is_file(), "{program:?}: run all of `cargo test`");
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder);
    command
}

/// The entries of a folder.
pub(crate) fn names(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// What the example `name` says as it refuses: with a code of its own, no panic and no file.
pub(crate) fn refused(name: &str, folder: &Path, arguments: &[&str]) -> String {
    let before = names(folder);
    let output = example(name, folder, arguments).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?} was accepted");
    assert!(!message.contains("panicked"), "{arguments:?}: {message}");
    let code = output.status.code();
    assert!(
        matches!(code, Some(1 | 2)),
        "{arguments:?} ended with {code:?}"
    );
    assert_eq!(names(folder), before, "{arguments:?} left a file");
    message
}

/// A folder of the fixtures.
pub(crate) fn model(name: &str) -> String {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/data");
    data.join(name).into_os_string().into_string().unwrap()
}

/// Writes the embedded model with a safety checker that flags all it sees.
pub(crate) fn write_guarded_model(folder: &Path) {
    let tiny = sd_tiny::files();
    for part in tiny.names() {
        let names = tiny.folder(&part).names();
        fs::create_dir_all(folder.join(if names.is_empty() { "" } else { &part })).unwrap();
        for name in &names {
            let bytes = tiny.folder(&part).read(name).unwrap();
            fs::write(folder.join(&part).join(name), bytes).unwrap();
        }
    }
    let index = tiny.text("model_index.json").unwrap();
    let mut index: serde_json::Value = serde_json::from_str(&index).unwrap();
    index["safety_checker"] =
        serde_json::json!(["stable_diffusion", "StableDiffusionSafetyChecker"]);
    fs::write(folder.join("model_index.json"), index.to_string()).unwrap();
    let source = sd_fixtures::path("safety_checker");
    for (part, name) in [
        ("safety_checker", "config.json"),
        ("safety_checker", "model.safetensors"),
        ("feature_extractor", "preprocessor_config.json"),
    ] {
        fs::create_dir_all(folder.join(part)).unwrap();
        fs::copy(source.join(part).join(name), folder.join(part).join(name)).unwrap();
    }
    let weights = folder.join("safety_checker/model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    // Half precision's -1: no cosine is below.
    let low = [0x00, 0xbc].repeat(17);
    let threshold = safetensors::tensor::TensorView::new(safetensors::Dtype::F16, vec![17], &low);
    let threshold = threshold.unwrap();
    let tensors = tensors.iter().map(|(name, view)| match name {
        "concept_embeds_weights" => (name, threshold.clone()),
        _ => (name, view),
    });
    let strict = safetensors::serialize(tensors, None).unwrap();
    fs::write(weights, strict).unwrap();
}
