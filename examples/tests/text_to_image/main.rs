//! The example's command line is a contract: what it writes, prints and refuses.

mod guidance;
mod models;
mod outputs;
mod pictures;
#[cfg(unix)]
mod places;
#[cfg(feature = "hub-http")]
#[path = "../../../sd-hub/tests/server/mod.rs"]
mod server;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use image::RgbImage;
use sd_tiny::micro::{Family, Layout, Micro};
use support::{example, model, names, write_guarded_model};

fn program(folder: &Path, arguments: &[&str]) -> Command {
    example("text_to_image", folder, arguments)
}

fn refused(folder: &Path, arguments: &[&str]) -> String {
    support::refused("text_to_image", folder, arguments)
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    program(folder, arguments).output().unwrap()
}

/// What it said while it drew.
fn drawn(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, &[&["--steps", "1"], arguments].concat());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {message}");
    message
}

fn drawn_with(folder: &Path, arguments: &[&str]) {
    let output = run(folder, arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {message}");
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
    let png = fs::read(folder.path().join("out.png")).unwrap();
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

fn latents(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let out = ["--latents-out", "l.safetensors"];
    let output = run(folder, &[arguments, &out].concat());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {message}");
    fs::read(folder.join("l.safetensors")).unwrap()
}

#[test]
fn a_folder_alone_says_size_steps_and_guidance() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let base = model("xl/base");
    let alone = latents(path, &["a cube", "--model", &base]);
    let picture = image::open(path.join("out.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (80, 80));
    let same = ["--steps", "50", "--guidance", "5", "--width", "80"];
    let given = latents(path, &[&["a cube", "--model", &base], &same[..]].concat());
    assert_eq!(alone, given);
    for other in [["--steps", "49"], ["--guidance", "4.9"]] {
        let other = latents(path, &[&["a cube", "--model", &base], &other[..]].concat());
        assert_ne!(alone, other);
    }
}

/// The latents in a file that the program wrote.
fn numbers(file: &[u8]) -> Vec<f32> {
    let file = safetensors::SafeTensors::deserialize(file).unwrap();
    let data = file.tensor("latents").unwrap().data().to_vec();
    let numbers = data.as_chunks::<4>().0.iter();
    numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The largest difference between two files of latents of one size.
fn difference(a: &[u8], b: &[u8]) -> f32 {
    let values = |file: &[u8]| -> Vec<f32> {
        let (length, rest) = file.split_first_chunk().unwrap();
        let data = &rest[u64::from_le_bytes(*length) as usize..];
        let values = data.as_chunks().0.iter();
        values.map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let (a, b) = (values(a), values(b));
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
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

#[test]
fn what_a_log_gets_is_short_and_without_colours() {
    let folder = tempfile::tempdir().unwrap();
    let long: Vec<String> = (0..12_000).map(|k| format!("é{k}")).collect();
    let long = long.join(" ");
    let said = drawn(folder.path(), &[&long]);
    assert!(!said.contains('\x1b'), "{said}");
    let line = said.lines().next().unwrap();
    assert!(
        said.len() < 500 && line.contains("its end is cut"),
        "{said}"
    );
    let cut = line.split('"').nth(1).unwrap();
    assert!(cut.ends_with('…') && cut.chars().count() == 101, "{cut}");
    assert!(long.contains(cut.trim_end_matches('…')), "{cut}");
}

#[test]
fn nobody_who_listens_is_no_reason_to_panic() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = program(folder.path(), &["--steps", "1", "--json"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "the report is lost");
    assert!(folder.path().join("out.png").exists());
    if let Ok(full) = fs::File::options().write(true).open("/dev/full") {
        let mut command = program(folder.path(), &["--steps", "0"]);
        let status = command.stderr(full).status().unwrap();
        assert_eq!(status.code(), Some(1));
    }
}
