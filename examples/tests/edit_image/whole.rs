//! Pictures drawn anew as wholes.

use std::fs;
use std::path::Path;

use image::RgbImage;
use sd_pipeline::{Record, device, read_latents};

use crate::support::{example, model, refused, write_guarded_model};

const FEW: [&str; 6] = [
    "a green cube",
    "--image",
    "in.png",
    "--steps",
    "4",
    "--json",
];

/// A folder with a picture whose sides are no multiples of 8.
fn folder() -> (tempfile::TempDir, RgbImage) {
    let folder = tempfile::tempdir().unwrap();
    let picture = RgbImage::from_fn(75, 61, |x, y| [3 * x as u8, 4 * y as u8, 99].into());
    picture.save(folder.path().join("in.png")).unwrap();
    (folder, picture)
}

/// The picture, and the report.
fn drawn(folder: &Path, more: &[&str]) -> (RgbImage, serde_json::Value) {
    let arguments = [&FEW[..], more].concat();
    let output = example("edit_image", folder, &arguments).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {message}");
    let report = serde_json::from_slice(&output.stdout).unwrap();
    let picture = image::open(folder.join("out.png"));
    (picture.map(|p| p.into_rgb8()).unwrap_or_default(), report)
}

#[test]
fn the_size_is_the_pictures_own_or_as_asked() {
    let (folder, _) = folder();
    let (own, report) = drawn(folder.path(), &[]);
    assert_eq!(own.dimensions(), (72, 56));
    // Of the four steps at 0.8.
    assert_eq!(report["step_seconds"].as_array().unwrap().len(), 3);
    let wide = ["--width", "96", "--height", "40"];
    let ways = ["crop", "fit", "stretch"].map(|way| {
        let (picture, _) = drawn(folder.path(), &[&wide[..], &["--resize", way]].concat());
        assert_eq!(picture.dimensions(), (96, 40), "{way}");
        picture
    });
    assert!(ways[0] != ways[1] && ways[1] != ways[2] && ways[0] != ways[2]);
    assert_eq!(drawn(folder.path(), &wide).0, ways[2]);
    let (tall, _) = drawn(folder.path(), &["--height", "64"]);
    assert_eq!(tall.dimensions(), (72, 64));
    let (full, report) = drawn(folder.path(), &["--strength", "1"]);
    assert_eq!(report["step_seconds"].as_array().unwrap().len(), 4);
    assert_ne!(full, own);
}

#[test]
fn each_picture_of_several_is_that_of_its_own_seed() {
    let (folder, _) = folder();
    let both = [
        "--count",
        "2",
        "--seed",
        "7",
        "--latents-out",
        "both.safetensors",
    ];
    drawn(
        folder.path(),
        &[&both[..], &["--scheduler", "Euler a"]].concat(),
    );
    assert!(folder.path().join("out-1.png").exists());
    let second = ["--seed", "8", "--latents-out", "second.safetensors"];
    drawn(
        folder.path(),
        &[&second[..], &["--scheduler", "Euler a"]].concat(),
    );
    let latents = |name: &str| read_latents(folder.path().join(name), &device("flex").unwrap());
    let both = latents("both.safetensors").unwrap();
    assert_eq!(both.dims(), [2, 4, 7, 9]);
    let off = both.narrow(0, 1, 1) - latents("second.safetensors").unwrap();
    let off: f32 = off.abs().max().into_scalar();
    assert!(off < 1e-4, "{off}");
}

#[test]
fn a_record_says_what_it_was_made_from_and_redraws_it() {
    let (folder, picture) = folder();
    let path = folder.path();
    let more = [
        "--strength",
        "0.6",
        "--resize",
        "crop",
        "--width",
        "56",
        "--seed",
        "3",
    ];
    drawn(path, &more);
    let record = Record::read(path.join("out.png")).unwrap();
    assert_eq!((record.strength, record.seed), (Some(0.6), Some(3)));
    let drawn_once = fs::read(path.join("out.png")).unwrap();
    fs::rename(path.join("out.png"), path.join("edited.png")).unwrap();

    let again = ["--redraw", "edited.png", "--image", "in.png"];
    let output = example("edit_image", path, &again).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && message.is_empty(), "{message}");
    assert!(fs::read(path.join("out.png")).unwrap() == drawn_once);
    fs::remove_file(path.join("out.png")).unwrap();

    let message = refused("text_to_image", path, &["--redraw", "edited.png"]);
    assert!(message.contains("made from another picture"), "{message}");
    let mut other = picture;
    other.put_pixel(0, 0, [9, 9, 9].into());
    other.save(path.join("other.png")).unwrap();
    let message = refused(
        "edit_image",
        path,
        &["--redraw", "edited.png", "--image", "other.png"],
    );
    assert!(message.contains("hash"), "{message}");
    let message = refused(
        "edit_image",
        path,
        &[&again[..], &["--strength", "0.5"]].concat(),
    );
    assert!(message.contains("cannot be used with"), "{message}");
    let message = refused(
        "edit_image",
        path,
        &["--redraw", "in.png", "--image", "in.png"],
    );
    assert!(message.contains("no record"), "{message}");
}

#[test]
fn a_refiner_alone_and_behind_a_base_starts_from_a_picture() {
    let (folder, _) = folder();
    let (base, refiner) = (model("xl/base"), model("xl/refiner"));
    let latents = |more: &[&str]| {
        drawn(
            folder.path(),
            &[&["--latents-out", "l.safetensors"], more].concat(),
        );
        fs::read(folder.path().join("l.safetensors")).unwrap()
    };
    let alone = latents(&["--model", &refiner, "--strength", "0.5"]);
    let based = latents(&["--model", &base, "--strength", "0.5"]);
    let both = ["--model", &base, "--strength", "0.8", "--refiner", &refiner];
    let both = latents(&[&both[..], &["--handover", "0.6"]].concat());
    assert!(alone != based && based != both && both != alone);
    // SDXL's own strength is 0.3, of which four steps leave one.
    let (_, report) = drawn(folder.path(), &["--model", &base]);
    assert_eq!(report["step_seconds"].as_array().unwrap().len(), 1);
}

#[test]
fn pictures_pass_the_safety_checker_and_bear_the_watermark() {
    let (folder, _) = folder();
    write_guarded_model(&folder.path().join("model"));
    let guarded = ["--model", "model"];
    let (black, report) = drawn(folder.path(), &guarded);
    assert_eq!(report["flagged"], serde_json::json!([true]));
    assert!(black.iter().all(|byte| *byte == 0));
    let off = [&guarded[..], &["--safety", "off"]].concat();
    assert!(drawn(folder.path(), &off).0.iter().any(|byte| *byte != 0));

    let large = ["--width", "256", "--height", "256", "--strength", "0.3"];
    let (plain, _) = drawn(folder.path(), &large);
    let (marked, _) = drawn(folder.path(), &[&large[..], &["--watermark"]].concat());
    assert_ne!(plain, marked);
    let record = Record::read(folder.path().join("out.png")).unwrap();
    assert!(record.watermark.is_some());
}
