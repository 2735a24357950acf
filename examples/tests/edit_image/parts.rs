//! The options of `edit_image` that draw a part of a picture anew, or beyond it.

use std::path::Path;
use std::process::Output;

use image::{GrayImage, Luma, RgbImage};

use crate::support::example;

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let common = ["a green cube", "--image", "in.png", "--steps", "2"];
    let mut command = example("edit_image", folder, &common);
    command.args(arguments).output().unwrap()
}

fn drawn(folder: &Path, arguments: &[&str]) -> RgbImage {
    let output = run(folder, arguments);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {message}");
    image::open(folder.join("out.png")).unwrap().into_rgb8()
}

fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{message}");
    assert!(!folder.join("out.png").exists(), "{arguments:?}");
    message
}

/// A folder with a picture, and a mask of the right part of it.
fn folder() -> (tempfile::TempDir, RgbImage) {
    let folder = tempfile::tempdir().unwrap();
    let picture = RgbImage::from_fn(75, 61, |x, y| [3 * x as u8, 4 * y as u8, 99].into());
    picture.save(folder.path().join("in.png")).unwrap();
    let mask = GrayImage::from_fn(75, 61, |x, _| Luma([if x < 30 { 0 } else { 255 }]));
    mask.save(folder.path().join("mask.png")).unwrap();
    (folder, picture)
}

#[test]
fn a_masked_picture_keeps_what_it_is_told_to() {
    let (folder, picture) = folder();
    let mask = ["--mask", "mask.png"];
    // Without more the picture is drawn at a multiple of 8.
    let found = drawn(folder.path(), &mask);
    assert_eq!(found.dimensions(), (72, 56));
    for more in [
        &["--keep-unmasked"][..],
        &["--keep-unmasked", "--rule", "model"],
        &["--keep-unmasked", "--rule", "soft", "--strength", "1"],
        &["--keep-unmasked", "--width", "64", "--height", "64"],
        &["--masked-only", "8", "--width", "96", "--height", "64"],
    ] {
        let found = drawn(folder.path(), &[&mask[..], more].concat());
        assert_eq!(found.dimensions(), (75, 61), "{more:?}");
        let pairs = found.enumerate_pixels().zip(picture.pixels());
        let (kept, drawn): (Vec<_>, Vec<_>) = pairs.partition(|((x, ..), _)| *x < 30);
        assert!(kept.iter().all(|((.., new), old)| new == old), "{more:?}");
        let changed = drawn.iter().filter(|((.., new), old)| new != old).count();
        assert!(changed > 1000, "{more:?}: {changed}");
    }
    // What is grown and blurred keeps less.
    let more = ["--keep-unmasked", "--mask-grow", "8", "--mask-blur", "2"];
    let found = drawn(folder.path(), &[&mask[..], &more].concat());
    let is_kept = |x: u32| (0..61).all(|y| found.get_pixel(x, y) == picture.get_pixel(x, y));
    assert!(is_kept(10) && !is_kept(25));
}

#[test]
fn latents_of_a_part_are_those_of_its_size() {
    let (folder, _) = folder();
    let size = [
        "--width",
        "96",
        "--height",
        "64",
        "--latents-out",
        "l.safetensors",
    ];
    let part = ["--mask", "mask.png", "--masked-only", "8"];
    drawn(folder.path(), &[&part[..], &size].concat());
    let file = std::fs::read(folder.path().join("l.safetensors")).unwrap();
    let header = String::from_utf8_lossy(&file[..file.len().min(400)]).into_owned();
    assert!(header.contains("[1,4,8,12]"), "{header}");
}

#[test]
fn an_expanded_picture_has_the_old_one_within() {
    let (folder, picture) = folder();
    for fill in ["edge", "blur", "mirror", "noise"] {
        let more = ["--expand", "16,0,21,3", "--fill", fill, "--keep-unmasked"];
        let found = drawn(folder.path(), &more);
        assert_eq!(found.dimensions(), (112, 64), "{fill}");
        for (x, y, pixel) in picture.enumerate_pixels() {
            assert_eq!(found.get_pixel(16 + x, y), pixel, "{fill} {x} {y}");
        }
    }
    let found = drawn(folder.path(), &["--expand", "16,0,21,3"]);
    assert_eq!(found.dimensions(), (112, 64));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (folder, _) = folder();
    let folder = folder.path();
    GrayImage::new(75, 61)
        .save(folder.join("black.png"))
        .unwrap();
    GrayImage::new(61, 75)
        .save(folder.join("other.png"))
        .unwrap();
    for (arguments, expected) in [
        (&["--mask", "black.png"][..], "mask is black everywhere"),
        (&["--mask", "other.png"], "mask is 61x75; expected 75x61"),
        (&["--mask", "none.png"], "none.png"),
        (&["--expand", "0,0,0,0"], "mask is black everywhere"),
        (&["--expand", "1,2,3"], "expected four numbers"),
        (
            &["--expand", "4294967295,0,1,0"],
            "expected sides of at most 16384",
        ),
        (
            &["--expand", "16000,16000,0,0"],
            "expected at most 67108864 pixels",
        ),
        (
            &["--keep-unmasked"],
            "--keep-unmasked needs --mask or --expand",
        ),
        (&["--rule", "soft"], "--rule needs --mask or --expand"),
        (&["--fill", "edge"], "--expand"),
        (
            &["--mask", "mask.png", "--strength", "NaN"],
            "strength is NaN",
        ),
        (&["--mask", "mask.png", "--mask-blur", "NaN"], "blur is NaN"),
        (
            &["--mask", "mask.png", "--feather", "9999"],
            "feather is 9999",
        ),
        (
            &["--mask", "mask.png", "--keep-unmasked", "--watermark"],
            "watermark is some",
        ),
    ] {
        let message = refused(folder, arguments);
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}
