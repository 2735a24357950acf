//! Every byte beside Pillow's, and the proportions beside diffusers'.

use sd_fixtures::Fixture;
use sd_pipeline::image::{ImageBuffer, Luma, Rgb};
use sd_pipeline::{Error, GrayImage, Opaque, Resampling, Resize, RgbImage, resize};

const KERNELS: [(&str, Resampling); 5] = [
    ("nearest", Resampling::Nearest),
    ("box", Resampling::Box),
    ("bilinear", Resampling::Bilinear),
    ("bicubic", Resampling::Bicubic),
    ("lanczos", Resampling::Lanczos),
];

fn picture<P: Opaque>(fixture: &Fixture, key: &str) -> ImageBuffer<P, Vec<u8>> {
    let shape = fixture.shape(key);
    let bytes = fixture.values(key).into_iter().map(|byte| byte as u8);
    ImageBuffer::from_raw(shape[1] as u32, shape[0] as u32, bytes.collect()).unwrap()
}

#[track_caller]
fn assert_equal<P: Opaque>(fixture: &Fixture, key: &str, found: &ImageBuffer<P, Vec<u8>>) {
    let shape = fixture.shape(key);
    assert_eq!(
        [found.height() as usize, found.width() as usize],
        shape[..2]
    );
    let found: Vec<f32> = found.as_raw().iter().map(|byte| f32::from(*byte)).collect();
    fixture.assert_close(key, &found, 0.0);
}

fn sizes<P: Opaque>(mode: &str) {
    let fixture = Fixture::open("resample");
    for k in 0..fixture.settings()["sizes"].as_u64().unwrap() {
        let source = picture::<P>(&fixture, &format!("{k}.{mode}"));
        for (name, kernel) in KERNELS {
            let key = format!("{k}.{mode}.{name}");
            let to = fixture.shape(&key);
            let found = resize(&source, to[1] as u32, to[0] as u32, kernel).unwrap();
            assert_equal(&fixture, &key, &found);
        }
    }
}

#[test]
fn rgb() {
    sizes::<Rgb<u8>>("rgb");
}

#[test]
fn grey() {
    sizes::<Luma<u8>>("grey");
}

#[test]
fn proportions() {
    let fixture = Fixture::open("resample");
    let ways = [
        ("stretch", Resize::Stretch),
        ("crop", Resize::Crop),
        ("fit", Resize::Fit),
    ];
    for k in 0..fixture.settings()["proportions"].as_u64().unwrap() {
        let source: RgbImage = picture(&fixture, &format!("p{k}"));
        for (name, way) in ways {
            for (kernel_name, kernel) in [KERNELS[2], KERNELS[4]] {
                let key = format!("p{k}.{name}.{kernel_name}");
                let to = fixture.shape(&key);
                let found = way
                    .apply(&source, to[1] as u32, to[0] as u32, kernel)
                    .unwrap();
                assert_equal(&fixture, &key, &found);
            }
        }
    }
}

#[test]
fn sizes_that_no_picture_has() {
    let picture = RgbImage::new(3, 2);
    let is_refused = |found: Result<RgbImage, Error>| {
        let error = found.unwrap_err().to_string();
        assert!(
            error.contains("expected from 1 to 268435456 pixels"),
            "{error}"
        );
    };
    is_refused(resize(&picture, 0, 2, Resampling::Box));
    is_refused(resize(&picture, u32::MAX, u32::MAX, Resampling::Nearest));
    is_refused(resize(&RgbImage::new(0, 0), 2, 2, Resampling::Lanczos));
    is_refused(Resize::Fit.apply(&picture, 8, 0, Resampling::Lanczos));
    is_refused(Resize::Crop.apply(&RgbImage::new(0, 5), 8, 8, Resampling::Lanczos));
    // What lies between the passes is not larger than need be.
    let line = GrayImage::new(1, 40_000);
    let found = resize(&line, 40_000, 1, Resampling::Bicubic);
    assert_eq!(found.unwrap().dimensions(), (40_000, 1));
    let line = GrayImage::new(40_000, 1);
    assert!(resize(&line, 40_000, 40_000, Resampling::Bicubic).is_err());
    // A picture is at least a pixel wide where it lies in the middle of a size, however long it is.
    let found = Resize::Fit.apply(&RgbImage::new(1, 900), 8, 8, Resampling::Lanczos);
    assert_eq!(found.unwrap().dimensions(), (8, 8));
}
