//! Marks beside those of the Python package, byte for byte.

use sd_fixtures::Fixture;
use sd_pipeline::image::{ImageBuffer, Rgb, Rgb32FImage};
use sd_pipeline::{
    Channel, Error, Marking, Request, RgbImage, TooSmall, Watermark, WatermarkError,
};

use crate::records::tiny;

/// The picture of fixtures/gen/watermark.py.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let green = match (x / 40 + y / 56) % 2 {
            0 => 40 + x / 3,
            _ => 220 - y / 4,
        };
        let blue = x * y / 31 + (x ^ y);
        Rgb([(x * 3 + y * y / 64) as u8, green as u8, blue as u8])
    })
}

fn floats(picture: &RgbImage) -> Rgb32FImage {
    let values = picture.iter().enumerate();
    let values = values.map(|(k, byte)| f32::from(*byte) + (k % 7) as f32 / 8.0);
    Rgb32FImage::from_raw(picture.width(), picture.height(), values.collect()).unwrap()
}

/// Compares the rows from `first` on that the fixture has.
#[track_caller]
fn assert_rows<C: Channel + Into<f32>>(
    fixture: &Fixture,
    key: &str,
    found: &ImageBuffer<Rgb<C>, Vec<C>>,
    first: usize,
    tolerance: f64,
) where
    Rgb<C>: sd_pipeline::image::Pixel<Subpixel = C>,
{
    let shape = fixture.shape(key);
    assert_eq!(shape[1], found.width() as usize);
    let row = shape[1] * 3;
    let values = found.as_raw()[first * row..(first + shape[0]) * row].iter();
    let values: Vec<f32> = values.map(|value| (*value).into()).collect();
    fixture.assert_close(key, &values, tolerance);
}

fn bits(fixture: &Fixture, key: &str) -> Watermark {
    Watermark::new(fixture.values(key).into_iter().map(|bit| bit == 1.0))
}

#[test]
fn pictures_of_bytes() {
    let fixture = Fixture::open("watermark");
    let picture = picture(266, 257);
    let marked = Watermark::sdxl().embed(&picture).unwrap();
    assert_rows(&fixture, "bytes.first", &marked, 0, 0.0);
    assert_rows(&fixture, "bytes.last", &marked, 244, 0.0);

    let few: Watermark = "1011010".parse().unwrap();
    assert_rows(&fixture, "few.first", &few.embed(&picture).unwrap(), 0, 0.0);

    let read = |picture: &RgbImage, bits| Watermark::read(picture, bits).unwrap();
    assert_eq!(read(&picture, 48), bits(&fixture, "read.plain"));
    assert_eq!(read(&marked, 48), bits(&fixture, "read.bytes"));
    let few = few.embed(&picture).unwrap();
    assert_eq!(read(&few, 7), bits(&fixture, "read.few"));
}

#[test]
fn pictures_of_floats() {
    let fixture = Fixture::open("watermark");
    let marked = Watermark::sdxl()
        .embed(&floats(&picture(266, 257)))
        .unwrap();
    // OpenCV fuses multiplications and additions where the processor does.
    assert_rows(&fixture, "floats.first", &marked, 0, 2e-4);
    assert_rows(&fixture, "floats.last", &marked, 250, 2e-4);
    let read = Watermark::read(&marked, 48).unwrap();
    assert_eq!(read, bits(&fixture, "read.floats"));

    // Rounded to bytes such a mark is read less well, here and there.
    let bytes = marked
        .iter()
        .map(|value| value.round_ties_even().clamp(0.0, 255.0) as u8);
    let bytes = RgbImage::from_raw(266, 257, bytes.collect()).unwrap();
    let read = Watermark::read(&bytes, 48).unwrap();
    assert_eq!(read, bits(&fixture, "read.floats_as_bytes"));
}

#[test]
fn any_bits() {
    let marks = [
        Watermark::from_bytes(b"sd"),
        Watermark::new([true]),
        Watermark::new((0..1024).map(|k| k % 3 == 0)),
    ];
    let picture = RgbImage::from_pixel(256, 256, Rgb([90, 120, 200]));
    for mark in marks {
        let marked = mark.embed(&picture).unwrap();
        assert_eq!(Watermark::read(&marked, mark.bits().len()).unwrap(), mark);
        assert_eq!(mark.to_string().parse::<Watermark>().unwrap(), mark);
    }
    assert_eq!(Watermark::from_bytes(&[0xA1]).to_string(), "10100001");
}

#[test]
fn pictures_and_bits_that_do_not_fit() {
    let error = |width, height, bits| match Watermark::read(&RgbImage::new(width, height), bits) {
        Err(Error::Watermark(error)) => error,
        other => panic!("{other:?}"),
    };
    let (width, height) = (512, 127);
    assert_eq!(
        error(width, height, 48),
        WatermarkError::TooSmall { width, height }
    );
    let none = RgbImage::new(0, 0);
    assert!(Watermark::sdxl().embed(&none).is_err());
    assert_eq!(
        error(256, 256, 1025),
        WatermarkError::Bits {
            bits: 1025,
            room: 1024
        }
    );
    assert_eq!(
        error(256, 256, 0),
        WatermarkError::Bits {
            bits: 0,
            room: 1024
        }
    );
    // Large, but without a single block.
    assert_eq!(
        error(7, 70_000, 1),
        WatermarkError::Bits { bits: 1, room: 0 }
    );
    for text in ["", "0102", "٠١"] {
        assert!(text.parse::<Watermark>().is_err(), "{text}");
    }
}

#[test]
fn a_runs_pictures() {
    let pipeline = tiny();
    let request = |side, watermark| Request {
        steps: 1,
        width: Some(side),
        height: Some(side),
        watermark,
        ..Request::new("a red cube")
    };
    let order = Marking::from(Watermark::sdxl());
    let plain = pipeline.generate(&request(256, None)).unwrap().remove(0);
    let marked = pipeline
        .generate(&request(256, Some(order.clone())))
        .unwrap()
        .remove(0);
    assert_eq!(marked.image, Watermark::sdxl().embed(&plain.image).unwrap());
    assert_eq!((plain.is_marked, marked.is_marked), (false, true));
    assert_eq!(marked.record.watermark, Some(Watermark::sdxl()));

    // Refused before anything is drawn, or left as they are.
    let refused = pipeline
        .start(&request(64, Some(order.clone())))
        .unwrap_err();
    assert!(
        refused.to_string().contains("64x64 pixels is too small"),
        "{refused}"
    );
    let too_small = TooSmall::Leave;
    let left = request(64, Some(Marking { too_small, ..order }));
    let left = pipeline.generate(&left).unwrap().remove(0);
    assert!(!left.is_marked && left.record.watermark.is_none());
}
