//! Whole autoencoders with random weights against diffusers' `AutoencoderKL` and `AutoencoderTiny`.

use std::collections::HashMap;

use burn::tensor::{Device, FloatDType, Tensor};
use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sd_core::{Autoencoder, Error, RecordedNoise};
use sd_fixtures::Fixture;
use sd_models::vae::{Direction, Limits, Posterior, Tiling, TinyVae, Vae, VaeFiles};
use sd_models::{Files, LoadOptions};

fn open(folder: &str, dtype: FloatDType) -> Vae {
    let files = Files::directory(sd_fixtures::path(""));
    Vae::open(&files, folder, &Device::flex(), dtype).expect("the model opens")
}

#[track_caller]
fn check(folder: &str, fixture: &str) {
    let (vae, fixture) = (open(folder, FloatDType::F32), Fixture::open(fixture));
    let cases = fixture.settings()["cases"].as_u64().expect("cases");
    assert!(cases > 0);
    let tensor = |key: &str| fixture.tensor(key, &Device::flex());
    for i in 0..cases {
        let key = |name: &str| format!("{i}.{name}");
        let mean = vae.encode(tensor(&key("image")), None).expect("encodes");
        fixture.assert_tensor(&key("mean"), mean, 1e-5);
        let mut noise = RecordedNoise::new([fixture.data(&key("noise"))]);
        let sample = vae.encode(tensor(&key("image")), Some(&mut noise));
        fixture.assert_tensor(&key("sample"), sample.expect("encodes"), 1e-5);
        let image = vae.decode(tensor(&key("latent"))).expect("decodes");
        fixture.assert_tensor(&key("out"), image, 1e-5);
    }
}

#[test]
fn four_resolutions() {
    check("vae_four", "vae_four");
}

#[test]
fn two_resolutions_and_every_setting_off_default() {
    check("vae_two", "vae_two");
}

#[test]
fn three_resolutions() {
    check("vae_three", "vae_three");
    assert_eq!(open("vae_three", FloatDType::F32).spec().factor, 4);
}

#[test]
fn sixteen_channels_and_a_shift() {
    check("vae_sixteen", "vae_sixteen");
}

#[test]
fn a_mean_and_a_deviation_for_each_channel() {
    check("vae_statistics", "vae_statistics");
}

fn open_tiny(folder: &str, dtype: FloatDType) -> TinyVae {
    let files = Files::directory(sd_fixtures::path(""));
    TinyVae::open(&files, folder, &Device::flex(), dtype).expect("the model opens")
}

/// Both directions of all cases against diffusers, and the noise is left alone.
#[track_caller]
fn check_tiny(vae: &TinyVae, fixture: &Fixture, tolerance: f64) {
    let cases = fixture.settings()["cases"].as_u64().expect("cases");
    assert!(cases > 0);
    for i in 0..cases {
        let tensor = |name: &str| {
            let tensor: Tensor<4> = fixture.tensor(&format!("{i}.{name}"), &Device::flex());
            tensor.cast(vae.spec().dtype)
        };
        let mut none = RecordedNoise::default();
        let mean = vae.encode(tensor("image"), Some(&mut none));
        let mean = mean.expect("encodes").cast(FloatDType::F32);
        fixture.assert_tensor(&format!("{i}.mean"), mean, tolerance);
        let image = vae.decode(tensor("latent")).expect("decodes");
        let image = image.cast(FloatDType::F32);
        fixture.assert_tensor(&format!("{i}.out"), image, tolerance);
    }
}

#[test]
fn tiny() {
    for (name, factor) in [("vae_tiny", 8), ("vae_tiny_sixteen", 4)] {
        let (vae, fixture) = (open_tiny(name, FloatDType::F32), Fixture::open(name));
        assert_eq!(vae.spec().factor, factor);
        check_tiny(&vae, &fixture, 1e-5);
        // f16 takes the backend's own operations, as GPUs do.
        check_tiny(&open_tiny(name, FloatDType::F16), &fixture, 1e-2);
    }
}

#[test]
fn tiny_in_strips_within_a_budget() {
    for dtype in [FloatDType::F32, FloatDType::F16] {
        for name in ["vae_tiny", "vae_tiny_sixteen"] {
            let (vae, fixture) = (open_tiny(name, dtype), Fixture::open(name));
            let tolerance = if dtype == FloatDType::F32 { 1e-5 } else { 1e-2 };
            for direction in [Direction::Encode, Direction::Decode] {
                let size = [24, 40];
                let whole = vae.clone().with_tiling(Tiling::Whole);
                let whole = whole.plan(direction, size).expect("it fits");
                let budget = |bytes| Limits {
                    budget: Some(bytes),
                    ..Limits::default()
                };
                let limits = budget(whole.peak_bytes - 1);
                let cut = vae.clone().with_limits(limits);
                let plan = cut.plan(direction, size).expect("it fits in strips");
                let rows = plan.strips.expect("whole it does not fit").rows;
                let latent = size[0] / vae.spec().factor;
                let all = (0..rows.len()).map(|level| latent << level);
                assert!(rows.iter().zip(all).any(|(rows, all)| *rows < all));
                assert!(plan.peak_bytes < whole.peak_bytes);
                check_tiny(&cut, &fixture, tolerance);
                let none = vae.clone().with_limits(budget(1000));
                let error = none.plan(direction, size);
                assert!(matches!(error, Err(Error::Memory { .. })), "{error:?}");
            }
        }
    }
}

#[test]
fn what_a_tiny_one_cannot_read_is_refused() {
    let vae = open_tiny("vae_tiny", FloatDType::F32);
    let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &Device::flex());
    for shape in [[1, 4, 8, 8], [1, 3, 12, 8], [0, 3, 8, 8]] {
        let error = vae.encode(zeros(shape), None);
        assert!(matches!(error, Err(Error::Shape { what: "image", .. })));
    }
    for shape in [[1, 3, 1, 1], [1, 4, 0, 1]] {
        let error = vae.decode(zeros(shape));
        assert!(matches!(error, Err(Error::Shape { what: "latent", .. })));
    }
    let half = zeros([1, 4, 1, 1]).cast(FloatDType::F16);
    let error = vae.decode(half);
    assert!(matches!(
        error,
        Err(Error::InvalidArgument {
            name: "latent dtype",
            ..
        })
    ));
    // NaN comes through every ReLU, on kernels and off.
    for dtype in [FloatDType::F32, FloatDType::F16] {
        let nan = (zeros([1, 4, 2, 2]) + f32::NAN).cast(dtype);
        let image = open_tiny("vae_tiny", dtype).decode(nan).expect("decodes");
        let image = image.cast(FloatDType::F32).try_into_vec_as::<f32>();
        assert!(image.expect("floats").iter().all(|x| x.is_nan()));
    }
}

#[test]
fn a_scaling_factor_from_outside_is_for_files_without_one() {
    let files = Files::directory(sd_fixtures::path(""));
    let open = |folder: &str| {
        VaeFiles::open(&files, folder, &LoadOptions::new(&Device::flex())).expect("opens")
    };
    let factor = |files: VaeFiles| files.load().expect("loads").config().scaling_factor;
    assert_eq!(factor(open("vae_four_old_names")), 0.18215);
    let given = |folder| open(folder).with_default_scaling(0.13025);
    assert_eq!(
        factor(given("vae_four_old_names").expect("a factor")),
        0.13025
    );
    assert_eq!(factor(given("vae_two").expect("a factor")), 0.75);
    for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = open("vae_four").with_default_scaling(wrong).unwrap_err();
        assert!(error.to_string().contains("scaling_factor"), "{error}");
    }
    // It is the one that decodes: as much larger a latent gives the same picture.
    let fixture = Fixture::open("vae_four");
    let latent = fixture.tensor::<4>("0.latent", &Device::flex()) * (0.13025 / 0.18215);
    let vae = given("vae_four_old_names").expect("a factor");
    let image = vae.load().expect("loads").decode(latent);
    fixture.assert_tensor("0.out", image.expect("decodes"), 1e-5);
}

/// A folder of `vae_four` whose decoder's first layer makes numbers beyond f16's 65504, which a
/// normalisation takes back at the end.
fn loud(force_upcast: bool) -> tempfile::TempDir {
    let from = sd_fixtures::path("vae_four");
    let file = "diffusion_pytorch_model.safetensors";
    let bytes = std::fs::read(from.join(file)).expect("a file");
    let tensors = SafeTensors::deserialize(&bytes).expect("a sound file");
    let larger = |name: &str, bytes: &[u8]| -> Vec<u8> {
        let factor = if name.starts_with("decoder.conv_in.") {
            2e6
        } else {
            1.0
        };
        let numbers = bytes.chunks(2).map(|x| f16::from_le_bytes([x[0], x[1]]));
        let numbers = numbers.map(|x| f16::from_f32(x.to_f32() * factor));
        numbers.flat_map(f16::to_le_bytes).collect()
    };
    let changed: HashMap<String, (Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, view)| {
            assert_eq!(view.dtype(), Dtype::F16);
            (
                name.into(),
                (view.shape().into(), larger(name, view.data())),
            )
        })
        .collect();
    let views = changed.iter().map(|(name, (shape, bytes))| {
        let view = TensorView::new(Dtype::F16, shape.clone(), bytes);
        (name.clone(), view.expect("a tensor"))
    });
    let folder = tempfile::tempdir().expect("a folder");
    let to = |name| folder.path().join(name);
    safetensors::serialize_to_file(views, None, &to(file)).expect("it is written");
    let config = std::fs::read_to_string(from.join("config.json")).expect("a file");
    let config = config.replace(
        "\"force_upcast\": true",
        &format!("\"force_upcast\": {force_upcast}"),
    );
    assert!(config.contains(&format!("\"force_upcast\": {force_upcast}")));
    std::fs::write(to("config.json"), config).expect("it is written");
    folder
}

#[test]
fn numbers_beyond_f16_are_right_in_f32_and_not_hidden_in_f16() {
    let decode = |force_upcast: bool, dtype: FloatDType| {
        let folder = loud(force_upcast);
        let files = Files::directory(folder.path());
        let vae = Vae::open(&files, "", &Device::flex(), dtype).expect("the model opens");
        let latent = Fixture::open("vae_four").tensor::<4>("0.latent", &Device::flex());
        let image = vae.decode(latent.cast(vae.spec().dtype)).expect("decodes");
        let image = image.cast(FloatDType::F32).try_into_vec_as::<f32>();
        (vae.spec().dtype, image.expect("floats"))
    };
    let (_, right) = decode(false, FloatDType::F32);
    assert!(right.iter().all(|x| x.is_finite()));
    assert_eq!(decode(true, FloatDType::F16), (FloatDType::F32, right));
    // What is asked for such pixels names the autoencoder (sd-pipeline's `NotFinite`).
    let (dtype, wrong) = decode(false, FloatDType::F16);
    assert_eq!(dtype, FloatDType::F16);
    assert!(wrong.iter().any(|x| !x.is_finite()));
}

#[test]
fn older_attention_names_and_fewer_settings() {
    check("vae_four_old_names", "vae_four");
}

#[test]
fn half_precision_only_where_it_does_not_overflow() {
    let dtype = |folder| open(folder, FloatDType::F16).spec().dtype;
    assert_eq!(dtype("vae_four"), FloatDType::F32);
    assert_eq!(dtype("vae_two"), FloatDType::F16);
}

#[test]
fn the_log_variance_is_clamped() {
    let moments = [[[[1.0f32, 2.0, 3.0]], [[-31.0, 21.0, 0.5]]]];
    let posterior = Posterior::new(Tensor::from_data(moments, &Device::flex()));
    let log_variance = posterior.log_variance.clone().try_into_vec_as::<f32>();
    assert_eq!(log_variance.expect("floats"), [-30.0, 20.0, 0.5]);
    let noise = Tensor::from_data([[[[1.0f32, 1e-4, -2.0]]]], &Device::flex());
    let sample = posterior.sample(noise).try_into_vec_as::<f32>();
    let expected = [
        1.0 + (-15f64).exp(),
        2.0 + 10f64.exp() * 1e-4,
        3.0 - 2.0 * 0.25f64.exp(),
    ];
    for (found, expected) in sample.expect("floats").into_iter().zip(expected) {
        assert!((f64::from(found) - expected).abs() < 1e-6);
    }
}
