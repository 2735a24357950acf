//! Whatever is given in place of a picture, it is refused in words, soon, and nothing is left.

use std::fs;
use std::time::{Duration, Instant};

use sd_fixtures::Fixture;

use crate::support::{example, refused};

fn bytes(fixture: &Fixture, name: &str) -> Vec<u8> {
    let values = fixture.values(&format!("{name}.file"));
    values.iter().map(|v| *v as u8).collect()
}

/// A PNG's head with another size, whose check sum is that of zlib's.
fn claiming(png: &[u8], width: u32, height: u32) -> Vec<u8> {
    let mut file = png.to_vec();
    file[16..20].copy_from_slice(&width.to_be_bytes());
    file[20..24].copy_from_slice(&height.to_be_bytes());
    let sum = file[12..29].iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ if sum & 1 == 1 { 0xEDB8_8320 } else { 0 }
        })
    });
    file[29..33].copy_from_slice(&(!sum).to_be_bytes());
    file
}

#[test]
fn what_is_no_picture_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let fixture = Fixture::open("picture_files");
    let [png, jpeg] = ["png_rgb", "jpeg_grey"].map(|name| bytes(&fixture, name));
    let mut cases = vec![
        (Vec::new(), "the file is empty"),
        (b"<svg/>".to_vec(), "no PNG, JPEG or WebP"),
        (png[..png.len() / 2].to_vec(), "ends before"),
        (jpeg[..jpeg.len() / 2].to_vec(), "ends before"),
        (claiming(&png, 40_000, 8), "40000x8"),
        (claiming(&png, 30_000, 30_000), "30000x30000"),
        (claiming(&png, 8_000, 8_000), "cannot be decoded"),
        (bytes(&fixture, "png_pixel"), "picture is 1x1"),
    ];
    for (name, words) in [
        ("png_animated", "animated"),
        ("webp_animated", "animated"),
        ("gif", "no PNG, JPEG or WebP"),
        ("bmp", "no PNG, JPEG or WebP"),
        ("jpeg_cmyk", "CMYK"),
    ] {
        cases.push((bytes(&fixture, name), words));
    }
    for (file, words) in cases {
        fs::write(path.join("in"), file).unwrap();
        let clock = Instant::now();
        let message = refused("edit_image", path, &["a cube", "--image", "in"]);
        assert!(message.contains(words), "{words}: {message}");
        assert!(clock.elapsed() < Duration::from_secs(20), "{words}");
    }
    let message = refused("edit_image", path, &["a cube", "--image", "gone.png"]);
    assert!(message.contains("gone.png"), "{message}");
    let message = refused("edit_image", path, &["a cube", "--image", "."]);
    assert!(message.contains("error: .:"), "{message}");
}

#[test]
fn what_contradicts_itself_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    image::RgbImage::new(72, 64)
        .save(path.join("in.png"))
        .unwrap();
    let refused = |more: &[&str]| {
        refused(
            "edit_image",
            path,
            &[&["a cube", "--image", "in.png"], more].concat(),
        )
    };
    for strength in ["NaN", "-0.1", "1.1", "inf", "0.01", "0"] {
        let message = refused(&["--strength", strength]);
        assert!(message.contains("strength is"), "{strength}: {message}");
    }
    assert!(refused(&["--width", "100"]).contains("width is 100"));
    assert!(refused(&["--resize", "bend"]).contains("stretch"));
    assert!(refused(&["--latents-in", "in.png"]).contains("cannot be used with"));
    assert!(refused(&["--expand", "1,2,3"]).contains("four numbers"));
    assert!(refused(&["--fill", "edge"]).contains("--expand"));
    let message = crate::support::refused("edit_image", path, &["a cube"]);
    assert!(message.contains("--image"), "{message}");
    let message = crate::support::refused("edit_image", path, &["--image", "in.png"]);
    assert!(message.contains("PROMPT"), "{message}");
}

/// A record of a hundred megabytes in the picture is nobody's concern.
#[test]
fn a_hostile_record_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let fixture = Fixture::open("picture_files");
    let png = bytes(&fixture, "png_rgb");
    let text = [b"tEXtparameters\0", &vec![b'{'; 100 << 20][..]].concat();
    let length = (text.len() as u32 - 4).to_be_bytes();
    let (head, rest) = png.split_at(33);
    let file = [head, &length, &text, &[0; 4], rest].concat();
    fs::write(path.join("in.png"), file).unwrap();
    let arguments = ["a cube", "--image", "in.png", "--steps", "2", "--json"];
    let output = example("edit_image", path, &arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    if let Some(peak) = report["peak_memory_bytes"].as_u64() {
        assert!(peak < 1_500_000_000, "{peak}");
    }
}
