//! The example's command line is a contract: what it writes, prints and refuses.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Cargo builds the examples before it runs a package's tests.
fn run(folder: &Path, arguments: &[&str]) -> Output {
    let test = std::env::current_exe().expect("the test's own path");
    let examples = test
        .ancestors()
        .nth(2)
        .expect("target/<profile>")
        .join("examples");
    let program: PathBuf = examples.join(format!("text_to_image{}", std::env::consts::EXE_SUFFIX));
    let output = Command::new(&program)
        .args(arguments)
        .current_dir(folder)
        .output();
    output.unwrap_or_else(|e| panic!("{}: {e}; run all of `cargo test`", program.display()))
}

fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?} was accepted");
    assert!(!message.contains("panicked"), "{arguments:?}: {message}");
    assert_eq!(
        std::fs::read_dir(folder).unwrap().count(),
        0,
        "{arguments:?} left a file"
    );
    message
}

#[test]
fn no_arguments_draw_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &[]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let png = std::fs::read(folder.path().join("out.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG"));
}

#[test]
fn count_json_and_latents_do_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let first = [
        "a blue ring",
        "--steps",
        "2",
        "--count",
        "2",
        "--output",
        "ring.png",
        "--json",
    ];
    let out = ["--latents-out", "l.safetensors"];
    let output = run(folder.path(), &[&first[..], &out].concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8(output.stdout).unwrap();
    let report: serde_json::Value = serde_json::from_str(lines.trim()).unwrap();
    assert_eq!(report["step_seconds"].as_array().unwrap().len(), 2);
    for key in ["load_seconds", "encode_seconds", "decode_seconds"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}");
    }
    let weights = &report["denoise_weight_bytes"];
    let bytes = |part: &str, kind: &str| weights[part][kind].as_u64().unwrap();
    assert!(bytes("denoiser", "packed") > bytes("denoiser", "plain"));
    assert!(bytes("denoiser", "plain") > 0);
    for part in ["text_encoder", "autoencoder"] {
        assert_eq!(bytes(part, "packed"), 0, "{part} is not there in its turn");
    }
    if cfg!(target_os = "linux") {
        let peak = report["peak_memory_bytes"].as_u64().unwrap() as f64;
        for phase in ["text", "denoise", "decode"] {
            let bytes = report[format!("{phase}_peak_bytes")].as_u64().unwrap();
            assert!(bytes as f64 <= 1.02 * peak, "{phase}: {bytes} of {peak}");
        }
    }
    let exists = |name: &str| folder.path().join(name).exists();
    assert!(exists("ring-0.png") && exists("ring-1.png") && !exists("ring.png"));

    // Final latents are no initial noise, but have its shape: they go back in for two pictures,
    // and not for one.
    let back = [
        "--latents-in",
        "l.safetensors",
        "--steps",
        "1",
        "--output",
        "again.png",
    ];
    let again = run(folder.path(), &[&back[..], &["--count", "2"]].concat());
    assert!(again.status.success() && exists("again-1.png"));
    let one = run(folder.path(), &back);
    assert!(String::from_utf8_lossy(&one.stderr).contains("latents has shape [2, 4, 16, 16]"));
}

#[test]
fn the_least_memory_draws_the_same_picture() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = ["fastest", "smallest"].map(|memory| {
        let output = run(
            folder.path(),
            &["--steps", "2", "--width", "72", "--memory", memory],
        );
        assert!(output.status.success());
        std::fs::read(folder.path().join("out.png")).unwrap()
    });
    assert_eq!(pictures[0], pictures[1]);
}

#[test]
fn mistakes_are_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str]| refused(folder.path(), arguments);
    assert!(refused(&["--output", "no/such/out.png"]).contains("no/such does not exist"));
    assert!(refused(&["--latents-out", "no/l.safetensors"]).contains("no does not exist"));
    assert!(refused(&["--output", "."]).contains("it is a folder"));
    assert!(refused(&["--width", "100"]).contains("width is 100"));
    assert!(refused(&["--guidance", "NaN"]).contains("guidance_scale is NaN"));
    assert!(refused(&["--steps", "0"]).contains("steps is 0"));
    assert!(refused(&["--count", "0"]).contains("count is 0"));
    assert!(refused(&["--scheduler", "none"]).contains("Euler"));
    assert!(refused(&["--device", "gpu"]).contains("known are flex"));
    assert!(refused(&["--model", "nowhere"]).contains("model_index.json"));
    assert!(refused(&["--latents-in", "nothing"]).contains("nothing"));
}
