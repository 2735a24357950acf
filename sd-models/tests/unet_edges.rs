//! What does not fit the U-Net is refused before anything is computed, and half precision runs.

use std::sync::Arc;

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use sd_core::{
    Cancel, Conditioning, Denoiser, Error, Network, NoiseSchedule, Parameterization,
    SizeConditioning, TextEmbedding,
};
use sd_fixtures::Fixture;
use sd_models::Files;
use sd_models::unet::{UNet, UNetEmbeddings, timestep_embedding};

fn open(name: &str, dtype: FloatDType) -> Arc<UNet> {
    let files = Files::directory(sd_fixtures::path(""));
    let schedule = Arc::new(NoiseSchedule::stable_diffusion());
    let v = Parameterization::VPrediction;
    let unet = UNet::open(&files, name, schedule, v, &Device::flex(), dtype);
    Arc::new(unet.expect("opens"))
}

fn zeros<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::zeros(shape, &Device::flex())
}

fn text(shape: [usize; 3]) -> TextEmbedding {
    TextEmbedding::new(zeros(shape))
}

fn sdxl(batch: usize) -> Conditioning {
    let text = text([batch, 3, 40]).with_pooled(zeros([batch, 20]));
    let mut conditioning = Conditioning::new(text);
    conditioning.size = Some(SizeConditioning::of([64, 48]));
    conditioning
}

fn predict(network: &dyn Network, x: Tensor<4>, t: f64) -> sd_core::Result<Tensor<4>> {
    Ok(network.predict(&x, t, &[0], &Cancel::new())?.remove(0))
}

#[track_caller]
fn assert_shape<T: std::fmt::Debug>(result: sd_core::Result<T>, expected: &str) {
    match result {
        Err(Error::Shape { what, .. }) => assert_eq!(what, expected),
        other => panic!("expected a wrong {expected}, got {other:?}"),
    }
}

#[track_caller]
fn assert_invalid<T: std::fmt::Debug>(result: sd_core::Result<T>, expected: &str) {
    match result {
        Err(Error::InvalidArgument { name, .. }) => assert_eq!(name, expected),
        other => panic!("expected an invalid {expected}, got {other:?}"),
    }
}

/// bf16 holds no odd number above 256, and of the multiples of 8 above 2048 every second; f16 no odd
/// one above 2048.
#[test]
fn sizes_are_exact_in_half_precision() {
    for dtype in [FloatDType::F16, FloatDType::BF16] {
        let unet = open("unet_sdxl", dtype);
        let fixture = Fixture::open("unet_sdxl");
        let half = |key: &str| fixture.tensor::<4>(key, &Device::flex()).cast(dtype);
        let (x, t) = (half("0.x"), 500.0);
        let tokens: Tensor<3> = fixture.tensor("0.context", &Device::flex());
        let pooled: Tensor<2> = fixture.tensor("0.pooled", &Device::flex());
        let (tokens, pooled) = (tokens.cast(dtype), pooled.cast(dtype));
        let drawn = |sides: [usize; 2]| {
            let text = TextEmbedding::new(tokens.clone()).with_pooled(pooled.clone());
            let mut branch = Conditioning::new(text);
            branch.size = Some(SizeConditioning {
                crop: [sides[1], 0],
                ..SizeConditioning::of(sides)
            });
            let network = unet.clone().prepare(vec![branch]).expect("prepares");
            let drawn = predict(&*network, x.clone(), t).expect("predicts");
            drawn
                .cast(FloatDType::F32)
                .try_into_vec_as::<f32>()
                .expect("floats")
        };
        let expected = |sides: [usize; 2]| {
            let config = unet.config();
            let sines = |t: f64, channels| timestep_embedding(t, channels, true, 0.0);
            let upload = |values: Vec<f32>| {
                let (width, place) = (values.len(), (&Device::flex(), DType::from(dtype)));
                Tensor::<2>::from_data(TensorData::new(values, [1, width]), place)
            };
            let [h, w] = sides.map(|side| side as f64);
            let numbers = [h, w, w, 0.0, h, w];
            let channels = config.text_time.expect("sizes").time_channels;
            let sizes = numbers.into_iter().flat_map(|size| sines(size, channels));
            let added = Tensor::cat(vec![pooled.clone(), upload(sizes.collect())], 1);
            let embeddings = UNetEmbeddings {
                added: Some(added),
                ..UNetEmbeddings::default()
            };
            let context = unet.model().prepare(&tokens, embeddings);
            let time = upload(sines(t, config.time.channels));
            let time = unet.model().embed_time(time, &context);
            let cancel = Cancel::new();
            let out = unet
                .model()
                .forward(x.clone(), &time, &context, None, &cancel);
            let out = out.expect("predicts").cast(FloatDType::F32);
            out.try_into_vec_as::<f32>().expect("floats")
        };
        for sides in [[2056, 2056], [4104, 4097], [4097, 2056]] {
            assert_eq!(drawn(sides), expected(sides), "{dtype:?} {sides:?}");
        }
        // Were it rounded, these were one.
        assert_ne!(drawn([2056, 4097]), drawn([2048, 4096]), "{dtype:?}");
    }
}

#[test]
fn the_spec_is_the_configurations() {
    let unet = open("unet_sd2", FloatDType::F32);
    let spec = unet.spec();
    assert_eq!(spec.sample_size, [6, 12]);
    assert_eq!(spec.context_width, 32);
    assert_eq!((spec.latent_channels, spec.concat_channels), (4, 0));
    assert_eq!(spec.parameterization, Parameterization::VPrediction);
    assert_eq!(spec.dtype, FloatDType::F32);
    let inpaint = open("unet_inpaint", FloatDType::F32);
    let channels = (
        inpaint.spec().latent_channels,
        inpaint.spec().concat_channels,
    );
    assert_eq!(channels, (4, 5));
    assert!(inpaint.spec().embeds_guidance && !spec.embeds_guidance);
    assert!(open("unet_sdxl", FloatDType::F32).spec().embeds_size && !spec.embeds_size);
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let unet = open("unet_sdxl", FloatDType::F32);
    let prepare = |branch: Conditioning| unet.clone().prepare(vec![branch]);
    let good = || sdxl(2);
    let network = prepare(good()).expect("prepares");
    assert!(predict(&*network, zeros([2, 4, 1, 1]), 0.0).is_ok());
    for shape in [
        [1, 4, 8, 8],
        [0, 4, 8, 8],
        [2, 3, 8, 8],
        [2, 4, 0, 8],
        [2, 4, 8, 0],
    ] {
        assert_shape(predict(&*network, zeros(shape), 0.0), "latent");
    }
    for shape in [[2, 3, 39], [2, 0, 40]] {
        let mut wrong = good();
        wrong.text.tokens = zeros(shape);
        assert_shape(prepare(wrong), "context");
    }
    for pooled in [
        None,
        Some([1, 20]),
        Some([2, 21]),
        Some([2, 69]),
        Some([2, 68]),
    ] {
        let mut wrong = good();
        wrong.text.pooled = pooled.map(zeros);
        assert_shape(prepare(wrong), "pooled");
    }
    let refiner = SizeConditioning {
        aesthetic_score: Some(6.0),
        ..SizeConditioning::of([64, 48])
    };
    for size in [None, Some(refiner)] {
        let mut wrong = good();
        wrong.size = size;
        assert_invalid(prepare(wrong), "size conditioning");
    }
    for t in [f64::NAN, f64::INFINITY] {
        let result = predict(&*network, zeros([2, 4, 8, 8]), t);
        assert_invalid(result, "timestep");
    }
    let half = zeros([2, 4, 8, 8]).cast(FloatDType::F16);
    assert_invalid(predict(&*network, half, 0.0), "latent dtype");
    let mut half = good();
    half.text.tokens = half.text.tokens.cast(FloatDType::F16);
    assert_invalid(prepare(half), "context dtype");
    assert_shape(unet.clone().prepare(vec![]), "conditioning");
    assert_shape(unet.clone().prepare(vec![good(), sdxl(1)]), "conditioning");
    let result = network.predict(&zeros([2, 4, 8, 8]), 0.0, &[1], &Cancel::new());
    assert_invalid(result, "branch");

    // Halved with rounding down, a side of 1 would vanish.
    let inpaint = open("unet_inpaint", FloatDType::F32);
    let inpainting = |beside: [usize; 4]| {
        let mut branch = Conditioning::new(text([1, 3, 24]));
        branch.concat = Some(zeros(beside));
        inpaint.clone().prepare(vec![branch])
    };
    let network = inpainting([1, 5, 2, 3]).expect("prepares");
    assert!(predict(&*network, zeros([1, 4, 2, 3]), 0.0).is_ok());
    assert_shape(predict(&*network, zeros([1, 4, 1, 8]), 0.0), "latent");
    assert_shape(predict(&*network, zeros([1, 4, 2, 4]), 0.0), "concat");
    for shape in [[1, 4, 2, 3], [2, 5, 2, 3]] {
        assert_shape(inpainting(shape), "concat");
    }
    let branch = Conditioning::new(text([1, 3, 24]));
    assert_shape(inpaint.clone().prepare(vec![branch]), "concat");
}

/// A model without a layer for it would not see it.
#[test]
fn conditioning_that_the_network_does_not_read_is_refused_by_name() {
    let unet = open("unet_sd1", FloatDType::F32);
    let mut branch = Conditioning::new(text([1, 3, 24]));
    branch.size = Some(SizeConditioning::of([64, 64]));
    branch.guidance_scale = Some(7.5);
    branch.concat = Some(zeros([1, 5, 8, 8]));
    let error = unet.prepare(vec![branch]).unwrap_err().to_string();
    assert_eq!(
        error,
        "the U-Net does not read sizes and crops, an embedded guidance scale, channels beside the \
         latent"
    );
}

#[test]
fn prompts_of_different_lengths_are_evaluated_apart() {
    let unet = open("unet_sd1", FloatDType::F32);
    let device = Device::flex();
    let fixture = Fixture::open("unet_sd1");
    let prompt: Tensor<3> = fixture.tensor("0.context", &device);
    let long = TextEmbedding::new(prompt.clone().repeat_dim(1, 2));
    let branches = [
        long,
        TextEmbedding::new(prompt.clone()),
        TextEmbedding::new(prompt),
    ];
    let network = unet
        .prepare(branches.map(Conditioning::new).into())
        .unwrap();
    let (x, t) = (
        fixture.tensor::<4>("0.x", &device),
        fixture.settings()[0]["t"].as_f64(),
    );
    let cancel = Cancel::new();
    let found = network
        .predict(&x, t.unwrap(), &[1, 0, 2], &cancel)
        .unwrap();
    // A prompt twice over says to attention what it says once.
    for found in found {
        fixture.assert_tensor("0.out", found, 1e-5);
    }
}

#[test]
fn a_pulled_brake_stops_the_network_and_leaves_it_whole() {
    let (unet, fixture) = (open("unet_sd1", FloatDType::F32), Fixture::open("unet_sd1"));
    let prompt = TextEmbedding::new(fixture.tensor("0.context", &Device::flex()));
    let network = unet.prepare(vec![prompt.into()]).unwrap();
    let (x, t) = (
        fixture.tensor("0.x", &Device::flex()),
        fixture.settings()[0]["t"].as_f64(),
    );
    let cancel = Cancel::new();
    cancel.pull();
    let stopped = network.predict(&x, t.unwrap(), &[0], &cancel);
    assert!(matches!(stopped, Err(Error::Cancelled)));
    cancel.release();
    let found = network
        .predict(&x, t.unwrap(), &[0], &cancel)
        .unwrap()
        .remove(0);
    fixture.assert_tensor("0.out", found, 1e-5);
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
        let tensor = |key: &str| fixture.tensor::<4>(key, &Device::flex()).cast(dtype);
        let (latent, beside) = (unet.spec().latent_channels, unet.spec().concat_channels);
        let mut text = TextEmbedding::new(fixture.tensor("1.context", &Device::flex()));
        let mut sizes = vec![];
        if name == "unet_sdxl" {
            text.pooled = Some(fixture.tensor("1.pooled", &Device::flex()));
            sizes = fixture.f32("1.time_ids");
        }
        let x = tensor("1.x");
        let row = |k: usize| {
            let mut branch = Conditioning::new(text.row(k));
            branch = branch.to(&Device::flex(), dtype).expect("casts");
            if let [a, b, c, d, e, f, ..] = sizes[(6 * k).min(sizes.len())..] {
                branch.size = Some(SizeConditioning {
                    original: [a, b].map(|side| side as usize),
                    crop: [c, d].map(|side| side as usize),
                    target: [e, f].map(|side| side as usize),
                    aesthetic_score: None,
                });
            }
            let x = x.clone().narrow(0, k, 1);
            branch.concat = (beside > 0).then(|| x.clone().narrow(1, latent, beside));
            let network = unet.clone().prepare(vec![branch]).expect("prepares");
            predict(&*network, x.narrow(1, 0, latent), t).expect("predicts")
        };
        let found = Tensor::cat((0..text.len()).map(row).collect(), 0);
        assert_eq!(found.dtype(), DType::from(dtype));
        fixture.assert_tensor("1.out", found.cast(FloatDType::F32), tolerance);
    }
}
