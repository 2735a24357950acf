//! A picture in strips is the picture whole; in blended tiles it is diffusers' tiled picture.

use burn::tensor::{Device, FloatDType, Tensor};
use sd_core::{Autoencoder, Error, Noise, SeededNoise};
use sd_fixtures::Fixture;
use sd_models::vae::{Direction, Limits, Posterior, StripRows, Tiling, Vae, VaeFiles};
use sd_models::{Files, LoadOptions, Products};

fn open(folder: &str) -> Vae {
    let files = Files::directory(sd_fixtures::path(""));
    Vae::open(&files, folder, &Device::flex(), FloatDType::F32).expect("the model opens")
}

fn budget(bytes: u64) -> Limits {
    Limits {
        budget: Some(bytes),
        ..Limits::default()
    }
}

/// Strips of one row, of a few and of many, whole multiples of four and not.
fn some_strips(vae: &Vae) -> impl Iterator<Item = StripRows> {
    let resolutions = vae.config().block_out_channels.len();
    let rows = [[1; 4], [4, 8, 8, 8], [3, 5, 2, 7], [1, 3, 64, 16], [100; 4]];
    rows.into_iter()
        .enumerate()
        .map(move |(i, rows)| StripRows {
            rows: rows[..resolutions].into(),
            attention: i + 1,
        })
}

fn noise(shape: [usize; 4]) -> Tensor<4> {
    let noise = SeededNoise::new(1, shape[0]).normal(shape).expect("noise");
    Tensor::from_data(noise, &Device::flex())
}

#[track_caller]
fn assert_near(found: Tensor<4>, expected: &Tensor<4>, tolerance: f32) {
    assert_eq!(found.dims(), expected.dims());
    let difference = (found - expected.clone()).abs().max().cast(FloatDType::F32);
    let difference = difference.try_into_scalar::<f32>().expect("a number");
    assert!(difference <= tolerance, "{difference:e} > {tolerance:e}");
}

/// The differences of strips from the whole, whatever the device and precision.
fn check_strips(vae: &Vae, sizes: &[(usize, usize, usize)], tolerance: f32) {
    let (spec, model) = (vae.spec(), vae.model());
    let mean = |posterior: Posterior| posterior.mean;
    for &(n, h, w) in sizes {
        let latent = noise([n, spec.latent_channels, h, w]).cast(spec.dtype);
        let image = noise([n, 3, h * spec.factor, w * spec.factor]).cast(spec.dtype);
        let decoded = model.decode(latent.clone());
        let encoded = mean(model.encode(image.clone()));
        for strips in some_strips(vae) {
            let found = model
                .decode_strips(latent.clone(), &strips)
                .expect("decodes");
            assert_near(found, &decoded, tolerance);
            let found = model
                .encode_strips(image.clone(), &strips)
                .expect("encodes");
            assert_near(mean(found), &encoded, tolerance);
        }
    }
}

#[test]
fn strips_equal_the_whole_at_odd_sizes() {
    for folder in ["vae_four", "vae_two", "vae_three"] {
        let sizes = [(1, 11, 7), (2, 9, 5), (1, 1, 3), (3, 6, 1)];
        check_strips(&open(folder), &sizes, 1e-5);
    }
}

/// f16 takes the backend's own operations, as GPUs do.
#[test]
fn strips_without_kernels_equal_the_whole() {
    let files = Files::directory(sd_fixtures::path(""));
    let vae = Vae::open(&files, "vae_two", &Device::flex(), FloatDType::F16).expect("it opens");
    check_strips(&vae, &[(1, 11, 7), (2, 3, 6)], 8e-3);
}

/// By tiles, or their emulation where the processor has none, strips are normalised as they are read and
/// measured as they are written, and the whole is not: the last bits of moments differ, and with them
/// the neighbour that a pixel here and there is rounded to, in each layer some more: 6e-4 was measured.
#[test]
fn strips_by_tiles_equal_the_whole() {
    let files = Files::directory(sd_fixtures::path("../../sd-tiny/model"));
    let mut all = Products::all().into_iter();
    let products = all.find(|products| products.name().ends_with("tiles"));
    let options = LoadOptions {
        products: products.expect("an emulation at least"),
        ..LoadOptions::new(&Device::flex())
    };
    let vae = VaeFiles::open(&files, "vae", &options).and_then(|vae| vae.load());
    let vae = vae.expect("the model opens");
    let latent = noise([1, 4, 7, 5]);
    let whole = vae.model().decode(latent.clone());
    let square = |x: Tensor<4>| {
        x.powi_scalar(2)
            .sum()
            .try_into_scalar::<f32>()
            .expect("a number")
    };
    for strips in some_strips(&vae) {
        let found = vae.model().decode_strips(latent.clone(), &strips);
        let off = square(found.expect("decodes") - whole.clone()) / square(whole.clone());
        assert!(off.sqrt() <= 1e-3, "{:e}", off.sqrt());
    }
}

#[test]
fn strips_equal_diffusers_too() {
    for folder in ["vae_four", "vae_two"] {
        let (vae, fixture) = (open(folder), Fixture::open(folder));
        let tensor = |key: &str| fixture.tensor::<4>(key, &Device::flex());
        let scaling = (vae.config().scaling_factor, vae.config().shift_factor);
        for i in 0..fixture.settings()["cases"].as_u64().expect("cases") {
            let key = |name: &str| format!("{i}.{name}");
            for strips in some_strips(&vae) {
                let latent = tensor(&key("latent")) / scaling.0 + scaling.1;
                let image = vae.model().decode_strips(latent, &strips);
                fixture.assert_tensor(&key("out"), image.expect("decodes"), 1e-5);
                let posterior = vae.model().encode_strips(tensor(&key("image")), &strips);
                let mean = (posterior.expect("encodes").mean - scaling.1) * scaling.0;
                fixture.assert_tensor(&key("mean"), mean, 1e-5);
            }
        }
    }
}

/// Through the trait, within the least memory that will do.
#[test]
fn the_autoencoder_keeps_within_its_budget() {
    let vae = open("vae_four");
    let image = noise([2, 3, 64, 24]);
    let latent = noise([2, 4, 8, 3]);
    let expected = (vae.encode(image.clone(), None), vae.decode(latent.clone()));
    let least = |direction| least(&vae, direction, [64, 24]);
    let small = vae.clone().with_limits(budget(least(Direction::Encode)));
    assert!(
        small
            .plan(Direction::Encode, [64, 24])
            .expect("it fits")
            .strips
            .is_some()
    );
    let encoded = small.encode(image, None).expect("encodes");
    assert_near(encoded, &expected.0.expect("encodes"), 1e-5);
    let small = vae.clone().with_limits(budget(least(Direction::Decode)));
    assert!(
        small
            .plan(Direction::Decode, [64, 24])
            .expect("it fits")
            .strips
            .is_some()
    );
    let decoded = small.decode(latent).expect("decodes");
    assert_near(decoded, &expected.1.expect("decodes"), 1e-5);
}

#[test]
fn strips_of_no_rows_are_refused() {
    let vae = open("vae_two");
    for (rows, attention) in [
        (vec![1], 1),
        (vec![1, 0], 1),
        (vec![1, 1, 1], 1),
        (vec![1, 1], 0),
    ] {
        let strips = StripRows { rows, attention };
        let error = vae.model().decode_strips(noise([1, 3, 2, 2]), &strips);
        assert!(matches!(
            error,
            Err(Error::InvalidArgument { name: "strips", .. })
        ));
        let error = vae.model().encode_strips(noise([1, 3, 2, 2]), &strips);
        assert!(matches!(
            error,
            Err(Error::InvalidArgument { name: "strips", .. })
        ));
    }
}

#[test]
fn blended_tiles_are_diffusers() {
    let fixture = Fixture::open("vae_tiled");
    let cases = fixture.settings();
    for (i, case) in cases.as_array().expect("cases").iter().enumerate() {
        let number = |key: &str| case[key].as_f64().expect("a number");
        let tiling = Tiling::Blend {
            tile: number("tile") as usize,
            overlap: number("overlap"),
        };
        let vae = open(case["model"].as_str().expect("a model")).with_tiling(tiling);
        let key = |name: &str| format!("{i}.{name}");
        let tensor = |name: &str| fixture.tensor::<4>(&key(name), &Device::flex());
        let image = vae.decode(tensor("latent")).expect("decodes");
        fixture.assert_tensor(&key("out"), image, 1e-5);
        let mean = vae.encode(tensor("image"), None).expect("encodes");
        fixture.assert_tensor(&key("mean"), mean, 1e-5);
    }
    assert_eq!(cases.as_array().map(Vec::len), Some(5));
}

/// What the strips that need least take.
fn least(vae: &Vae, direction: Direction, size: [usize; 2]) -> u64 {
    let vae = vae.clone().with_limits(budget(1));
    match vae.plan(direction, size) {
        Err(Error::Memory {
            needed, allowed: 1, ..
        }) => needed,
        other => panic!("one byte is enough: {other:?}"),
    }
}

#[test]
fn what_fits_is_computed_whole_and_what_does_not_in_strips() {
    let vae = open("vae_four");
    let (size, direction) = ([128, 64], Direction::Decode);
    let whole = vae.plan(direction, size).expect("it fits");
    assert_eq!(whole.strips, None);
    let within = |bytes| vae.clone().with_limits(budget(bytes)).plan(direction, size);
    assert_eq!(within(whole.peak_bytes).expect("it fits"), whole);
    let less = within(whole.peak_bytes - 1).expect("it fits");
    assert!(less.strips.is_some() && less.peak_bytes < whole.peak_bytes);
    let error = within(least(&vae, direction, size) - 1).expect_err("it does not fit");
    let message = error.to_string();
    assert!(
        message.starts_with("decoding 64x128 pixels in strips of one row needs ")
            && message.contains("the memory budget is "),
        "{message}"
    );
    let vae = vae.with_limits(budget(1));
    let latent = noise([1, 4, 2, 2]);
    assert!(matches!(vae.decode(latent), Err(Error::Memory { .. })));
    let whole = vae
        .with_tiling(Tiling::Whole)
        .encode(noise([1, 3, 8, 8]), None);
    assert!(matches!(whole, Err(Error::Memory { allowed: 1, .. })));
}

#[test]
fn tiles_that_are_none_are_refused() {
    let vae = open("vae_four");
    for (tile, overlap, name) in [
        (0, 0.25, "tile"),
        (12, 0.25, "tile"),
        (32, 1.0, "overlap"),
        (32, 0.8, "overlap"),
        (32, -0.1, "overlap"),
        (32, f64::NAN, "overlap"),
    ] {
        let vae = vae.clone().with_tiling(Tiling::Blend { tile, overlap });
        let error = vae.decode(noise([1, 4, 8, 8])).expect_err("no tile");
        assert!(
            matches!(error, Error::InvalidArgument { name: found, .. } if found == name),
            "{error}"
        );
    }
}
