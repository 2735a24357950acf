//! What does not fit the U-Net is refused before anything is computed, and half precision runs.

use std::sync::Arc;

use burn::tensor::{DType, Device, FloatDType, Tensor};
use sd_core::{Conditioning, Denoiser, Error, NoiseSchedule, PredictionType};
use sd_fixtures::Fixture;
use sd_models::Files;
use sd_models::unet::UNet;

fn open(name: &str, dtype: FloatDType) -> UNet {
    let files = Files::directory(sd_fixtures::path(""));
    let schedule = Arc::new(NoiseSchedule::stable_diffusion());
    let prediction = PredictionType::VPrediction;
    UNet::open(&files, name, schedule, prediction, &Device::flex(), dtype).expect("opens")
}

fn zeros<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::zeros(shape, &Device::flex())
}

fn sdxl(batch: usize) -> Conditioning {
    let mut conditioning = Conditioning::new(zeros([batch, 3, 40]));
    conditioning.pooled = Some(zeros([batch, 20]));
    conditioning.extra = Some(zeros([batch, 6]));
    conditioning
}

#[track_caller]
fn assert_shape<T: std::fmt::Debug>(result: sd_core::Result<T>, expected: &str) {
    match result {
        Err(Error::Shape { what, .. }) => assert_eq!(what, expected),
        other => panic!("expected a wrong {expected}, got {other:?}"),
    }
}

#[test]
fn the_spec_is_the_configurations() {
    let unet = open("unet_sd2", FloatDType::F32);
    let spec = unet.spec();
    assert_eq!(spec.sample_size, [6, 12]);
    assert_eq!(spec.context_width, 32);
    assert_eq!(spec.latent_channels, 4);
    assert_eq!(spec.prediction, PredictionType::VPrediction);
    assert_eq!(spec.dtype, FloatDType::F32);
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let unet = open("unet_sdxl", FloatDType::F32);
    let good = || sdxl(2);
    assert!(unet.predict(zeros([2, 4, 1, 1]), 0.0, &good()).is_ok());
    for shape in [
        [1, 4, 8, 8],
        [0, 4, 8, 8],
        [2, 3, 8, 8],
        [2, 4, 0, 8],
        [2, 4, 8, 0],
    ] {
        assert_shape(unet.predict(zeros(shape), 0.0, &good()), "latent");
    }
    for shape in [[2, 3, 39], [2, 0, 40]] {
        let mut wrong = good();
        wrong.context = zeros(shape);
        assert_shape(unet.prepare(wrong), "context");
    }
    for pooled in [
        None,
        Some([1, 20]),
        Some([2, 21]),
        Some([2, 69]),
        Some([2, 68]),
    ] {
        let mut wrong = good();
        wrong.pooled = pooled.map(zeros);
        assert_shape(unet.prepare(wrong), "pooled");
    }
    for extra in [
        None,
        Some([2, 5]),
        Some([2, 12]),
        Some([1, 6]),
        Some([2, 19]),
    ] {
        let mut wrong = good();
        wrong.extra = extra.map(zeros);
        assert_shape(unet.prepare(wrong), "extra");
    }
    for t in [f64::NAN, f64::INFINITY] {
        let result = unet.predict(zeros([2, 4, 8, 8]), t, &good());
        assert!(matches!(
            result,
            Err(Error::InvalidArgument {
                name: "timestep",
                ..
            })
        ));
    }
    let half = zeros([2, 4, 8, 8]).cast(FloatDType::F16);
    let result = unet.predict(half, 0.0, &good());
    assert!(matches!(
        result,
        Err(Error::InvalidArgument {
            name: "latent dtype",
            ..
        })
    ));
    let mut half = good();
    half.context = half.context.cast(FloatDType::F16);
    let result = unet.prepare(half);
    assert!(matches!(
        result,
        Err(Error::InvalidArgument {
            name: "context dtype",
            ..
        })
    ));

    // A model without sizes and crops would not see them.
    let mut wrong = Conditioning::new(zeros([1, 3, 24]));
    wrong.extra = Some(zeros([1, 6]));
    assert_shape(open("unet_sd1", FloatDType::F32).prepare(wrong), "extra");

    // Halved with rounding down, a side of 1 would vanish.
    let inpaint = open("unet_inpaint", FloatDType::F32);
    let prompt = Conditioning::new(zeros([1, 3, 24]));
    assert!(inpaint.predict(zeros([1, 9, 2, 3]), 0.0, &prompt).is_ok());
    assert_shape(inpaint.predict(zeros([1, 9, 1, 8]), 0.0, &prompt), "latent");
}

#[test]
fn what_another_network_prepared_is_not_used() {
    let (sd1, inpaint) = (
        open("unet_sd1", FloatDType::F32),
        open("unet_inpaint", FloatDType::F32),
    );
    let fixture = Fixture::open("unet_inpaint");
    let x = || fixture.tensor::<4>("1.x", &Device::flex());
    let prompt = Conditioning::new(fixture.tensor("1.context", &Device::flex()));
    let foreign = sd1.prepare(prompt.clone()).expect("prepares");
    let expected = inpaint.predict(x(), 7.0, &prompt).expect("predicts");
    let found = inpaint.predict(x(), 7.0, &foreign).expect("predicts");
    assert_eq!(found.to_data(), expected.to_data());

    // A clone is the same network.
    let prepared = inpaint.prepare(prompt).expect("prepares");
    let found = inpaint.clone().predict(x(), 7.0, &prepared);
    assert_eq!(found.expect("predicts").to_data(), expected.to_data());
}

#[test]
fn half_precision_runs_and_is_near() {
    let (f16, bf16) = ((FloatDType::F16, 0.02), (FloatDType::BF16, 0.15));
    let cases = [
        ("unet_sd1", f16),
        ("unet_sd2", f16),
        ("unet_sdxl", f16),
        ("unet_sdxl", bf16),
        ("unet_inpaint", f16),
        ("unet_asymmetric", bf16),
    ];
    for (name, (dtype, tolerance)) in cases {
        let fixture = Fixture::open(name);
        let t = fixture.settings()[1]["t"].as_f64().expect("a timestep");
        let unet = open(name, dtype);
        let x = fixture.tensor::<4>("1.x", &Device::flex()).cast(dtype);
        let context = fixture.tensor::<3>("1.context", &Device::flex());
        let mut conditioning = Conditioning::new(context.cast(dtype));
        if name == "unet_sdxl" {
            let pooled = fixture.tensor::<2>("1.pooled", &Device::flex());
            conditioning.pooled = Some(pooled.cast(dtype));
            conditioning.extra = Some(fixture.tensor("1.time_ids", &Device::flex()));
        }
        let found = unet.predict(x, t, &conditioning).expect("predicts");
        assert_eq!(found.dtype(), DType::from(dtype));
        fixture.assert_tensor("1.out", found.cast(FloatDType::F32), tolerance);
    }
}
