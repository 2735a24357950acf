//! Pictures from files: the pixels are Pillow's, and what is none, or would be too much, is refused.

use std::time::{Duration, Instant};

use image::{GrayImage, RgbImage};
use sd_fixtures::Fixture;
use sd_pipeline::{Error, PictureError, mask_from_bytes, picture_from_bytes, read_picture};

fn bytes(fixture: &Fixture, key: &str) -> Vec<u8> {
    fixture.values(key).iter().map(|v| *v as u8).collect()
}

fn names(fixture: &Fixture, kind: &str) -> Vec<String> {
    serde_json::from_value(fixture.settings()[kind].clone()).unwrap()
}

/// The picture and the mask of a file, and the most that a byte of either is off.
fn compared(fixture: &Fixture, name: &str) -> (RgbImage, GrayImage, u8) {
    let file = bytes(fixture, &format!("{name}.file"));
    let image = picture_from_bytes(&file).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mask = mask_from_bytes(&file).unwrap();
    let shape = fixture.shape(&format!("{name}.pixels"));
    let size = [image.height() as usize, image.width() as usize, 3];
    assert_eq!(size[..], shape, "{name}");
    assert_eq!(mask.dimensions(), image.dimensions());
    let expected = ["pixels", "grey"].map(|kind| bytes(fixture, &format!("{name}.{kind}")));
    let found = image.as_raw().iter().chain(mask.as_raw());
    let off = found.zip(expected.concat()).map(|(a, b)| a.abs_diff(b));
    let most = off.max().unwrap();
    (image, mask, most)
}

#[test]
fn pixels_are_those_of_pillow() {
    let fixture = Fixture::open("picture_files");
    let exact = names(&fixture, "exact");
    assert_eq!(exact.len(), 27);
    for name in exact {
        let (.., most) = compared(&fixture, &name);
        assert_eq!(most, 0, "{name}");
    }
    // Decoders of lossy formats round as they like.
    let near = names(&fixture, "near");
    assert_eq!(near.len(), 12);
    for name in near {
        let (.., most) = compared(&fixture, &name);
        assert!(most <= 3, "{name}: {most}");
    }
}

#[test]
fn what_is_no_single_picture_is_refused() {
    let fixture = Fixture::open("picture_files");
    let refused = names(&fixture, "refused");
    assert_eq!(refused.len(), 5);
    for name in refused {
        let reason = picture_from_bytes(&bytes(&fixture, &format!("{name}.file"))).unwrap_err();
        let expected = match &*name {
            "png_animated" | "webp_animated" => PictureError::Animated,
            "jpeg_cmyk" => PictureError::Cmyk,
            _ => PictureError::NotAPicture,
        };
        assert_eq!(reason, expected, "{name}");
    }
    assert_eq!(picture_from_bytes(b"").unwrap_err(), PictureError::Empty);
    let error = read_picture("no/such.png").unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

/// A file cut anywhere is refused, or, where only what is behind its picture is cut, read in full.
#[test]
fn cut_files_are_refused() {
    let fixture = Fixture::open("picture_files");
    for name in [
        "png_rgb",
        "jpeg_turned_6",
        "jpeg_progressive",
        "webp_rgb",
        "webp_lossy",
    ] {
        let file = bytes(&fixture, &format!("{name}.file"));
        let whole = picture_from_bytes(&file).unwrap();
        let mut refused = 0;
        for cut in 0..file.len() {
            match picture_from_bytes(&file[..cut]) {
                Err(_) => refused += 1,
                Ok(read) => assert!(read == whole && cut + 16 > file.len(), "{name}: {cut}"),
            }
        }
        assert!(refused + 16 >= file.len(), "{name}");
    }
    let jpeg = bytes(&fixture, "jpeg_grey.file");
    let half = picture_from_bytes(&jpeg[..jpeg.len() / 2]).unwrap_err();
    assert_eq!(half, PictureError::Truncated);
}

/// Bytes changed at random, in files of every kind: a picture or an error, and no panic.
#[test]
fn damaged_files_are_read_or_refused() {
    let fixture = Fixture::open("picture_files");
    let kinds = ["exact", "near", "refused"].map(|kind| names(&fixture, kind));
    let mut random = 1u64;
    let mut below = |most: usize| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
        (random >> 33) as usize % most
    };
    let [mut read, mut refused] = [0, 0];
    for name in kinds.concat() {
        let whole = bytes(&fixture, &format!("{name}.file"));
        for _ in 0..60 {
            let mut file = whole.clone();
            for _ in 0..=below(4) {
                let at = below(file.len());
                file[at] = below(256) as u8;
            }
            match picture_from_bytes(&file) {
                Ok(_) => read += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(read > 100 && refused > 100, "{read} {refused}");
}

/// A chunk of a PNG file, whose check sum is not looked at where the chunk is left out.
fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let length = data.len() as u32;
    [&length.to_be_bytes()[..], kind, data, &[0; 4]].concat()
}

/// `file` with `chunk` behind its head.
fn with_chunk(file: &[u8], chunk: &[u8]) -> Vec<u8> {
    let (head, rest) = file.split_at(8 + 25);
    [head, chunk, rest].concat()
}

/// `file` with the size that its head says changed, check sum and all.
fn resized(file: &[u8], width: u32, height: u32) -> Vec<u8> {
    let mut head = file[..8 + 25].to_vec();
    head[16..20].copy_from_slice(&width.to_be_bytes());
    head[20..24].copy_from_slice(&height.to_be_bytes());
    let mut sum = flate2::Crc::new();
    sum.update(&head[12..29]);
    head[29..].copy_from_slice(&sum.sum().to_be_bytes());
    [&head, &file[8 + 25..]].concat()
}

#[test]
fn hostile_files_cost_little() {
    let fixture = Fixture::open("picture_files");
    let png = bytes(&fixture, "png_rgb.file");
    let whole = picture_from_bytes(&png).unwrap();
    let clock = Instant::now();
    // A hundred megabytes of text, a million texts, and such as unpack to four hundred.
    let zeros = vec![0; 100 << 20];
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    for _ in 0..4 {
        std::io::Write::write_all(&mut packed, &zeros).unwrap();
    }
    let packed = packed.finish().unwrap();
    for chunk in [
        chunk(b"tEXt", &[b"parameters\0", &zeros[..]].concat()),
        chunk(b"tEXt", b"parameters\0Steps: 1").repeat(1 << 20),
        chunk(b"zTXt", &[b"parameters\0\0", &packed[..]].concat()),
        chunk(b"iCCP", &[b"profile\0\0", &packed[..]].concat()),
        chunk(b"eXIf", &zeros),
    ] {
        let read = picture_from_bytes(&with_chunk(&png, &chunk));
        assert!(read.as_ref() == Ok(&whole), "{:?}", read.err());
    }
    let segments = [&[0xFF, 0xE1, 0xFF, 0xFF][..], &[0; 0xFFFD]]
        .concat()
        .repeat(1600);
    let jpeg = bytes(&fixture, "jpeg_grey.file");
    let stuffed = [&jpeg[..2], &segments, &jpeg[2..]].concat();
    assert_eq!(picture_from_bytes(&stuffed), picture_from_bytes(&jpeg));

    // As many passes over the picture as fit into a file.
    let (picture, end) = jpeg.split_at(jpeg.len() - 2);
    let scans = [0xFF, 0xDA, 0, 2].repeat(1 << 20);
    let reason = picture_from_bytes(&[picture, &scans, end].concat()).unwrap_err();
    assert!(reason.to_string().contains("scans"), "{reason}");

    for (width, height) in [
        (40_000, 1),
        (1, 40_000),
        (30_000, 30_000),
        (u32::MAX >> 1, 1),
    ] {
        let reason = picture_from_bytes(&resized(&png, width, height)).unwrap_err();
        assert_eq!(reason, PictureError::TooLarge { width, height });
    }
    // Not as large as it says, and no picture at all.
    assert!(picture_from_bytes(&resized(&png, 8000, 8000)).is_err());
    assert!(picture_from_bytes(&resized(&png, 0, 5)).is_err());
    assert!(clock.elapsed() < Duration::from_secs(60));
}
