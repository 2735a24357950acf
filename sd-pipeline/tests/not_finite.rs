//! NaN and infinite values are reported by who made the first of them, in the step it happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{DType, Tensor};
use sd_pipeline::core::{Error as CoreError, Result};
use sd_pipeline::{
    Conditioning, Denoiser, DenoiserSpec, Error, FloatDType, Network, Pipeline, Prompt, Request,
    Slot, Start, TextEmbedding, TextEncoder, device, each_branch, image_from_pixels,
};

fn tiny() -> Pipeline {
    sd_tiny::pipeline(&device("flex").unwrap()).unwrap()
}

fn request() -> Request {
    Request {
        steps: 4,
        guidance_scale: 1.0,
        width: Some(64),
        height: Some(64),
        ..Request::new("a red cube")
    }
}

/// The component, step and precision that `error` names, and its message.
#[track_caller]
fn named(error: Error) -> (&'static str, Option<usize>, DType, String) {
    let message = error.to_string();
    match error {
        Error::Component(CoreError::NotFinite {
            component,
            step,
            dtype,
        }) => (component, step, dtype, message),
        other => panic!("another kind of error: {other:?}"),
    }
}

/// A denoiser that predicts zeros, and `bad` in one place from its evaluation number `at` on.
struct Failing {
    spec: DenoiserSpec,
    at: usize,
    bad: f32,
}

impl Denoiser for Failing {
    fn spec(&self) -> &DenoiserSpec {
        &self.spec
    }

    fn prepare(self: Arc<Self>, branches: Vec<Conditioning>) -> Result<Box<dyn Network>> {
        let evaluations = AtomicUsize::new(0);
        each_branch("a test", branches, move |x, _, _| {
            let evaluation = evaluations.fetch_add(1, Ordering::Relaxed) + 1;
            let [n, c, h, w] = x.dims();
            let zeros = x.zeros_like();
            if evaluation < self.at {
                return Ok(zeros);
            }
            let bad = zeros.clone().narrow(3, 0, 1).narrow(2, 0, 1) + self.bad;
            Ok(zeros.slice_assign([0..n, 0..c, h - 1..h, w - 1..w], bad))
        })
    }
}

fn failing(at: usize, bad: f32, dtype: FloatDType) -> Pipeline {
    let mut pipeline = tiny();
    let mut spec = pipeline.denoiser.spec().clone();
    spec.dtype = dtype;
    pipeline.denoiser = Slot::from(Failing { spec, at, bad });
    pipeline
}

#[test]
fn the_step_is_named_and_the_run_stays_where_it_was() {
    for name in ["DDIM", "Euler a", "DPM++ 2M", "Heun", "DPM adaptive"] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut pipeline = failing(3, bad, FloatDType::F32);
            pipeline.set_scheduler(name).unwrap();
            let mut run = pipeline.start(&request()).unwrap();
            let mut steps = 0;
            let error = loop {
                match run.next() {
                    Some(Ok(_)) => steps += 1,
                    Some(Err(error)) => break error,
                    None => panic!("{name}: no error"),
                }
            };
            let (component, step, dtype, message) = named(error);
            assert_eq!(
                (component, step),
                ("the denoiser", Some(steps + 1)),
                "{name}"
            );
            assert_eq!(dtype, DType::F32);
            assert!(!message.contains("f32"), "{message}");
            let left = run.latents().clone().try_into_vec_as::<f32>().unwrap();
            assert!(left.iter().all(|v| v.is_finite()), "{name}");
            assert!(run.next().is_none(), "{name}");
        }
    }
}

#[test]
fn half_precision_is_told_to_try_f32() {
    for dtype in [FloatDType::F16, FloatDType::BF16] {
        let mut run = failing(1, f32::INFINITY, dtype).start(&request()).unwrap();
        let (component, step, found, message) = named(run.next().unwrap().unwrap_err());
        assert_eq!((component, step), ("the denoiser", Some(1)));
        assert_eq!(found, DType::from(dtype));
        assert!(
            message.contains("half precision") && message.contains("try f32"),
            "{message}"
        );
    }
}

#[test]
fn a_guidance_that_overflows_is_not_the_denoisers_fault() {
    let request = Request {
        guidance_scale: 1e300,
        ..request()
    };
    let mut run = tiny().start(&request).unwrap();
    let (component, step, _, _) = named(run.next().unwrap().unwrap_err());
    assert_eq!((component, step), ("the scheduler", Some(1)));
}

/// A text encoder whose tokens or pooled vectors are not finite.
struct Spoilt {
    inner: Slot<dyn TextEncoder>,
    pooled: bool,
}

impl TextEncoder for Spoilt {
    fn encode(&self, prompts: &[Prompt]) -> Result<TextEmbedding> {
        let mut text = self.inner.get().unwrap().encode(prompts)?;
        if self.pooled {
            let pooled = Tensor::full([prompts.len(), 8], f32::NAN, &text.tokens.device());
            return Ok(text.with_pooled(pooled));
        }
        text.tokens = text.tokens * f32::INFINITY;
        Ok(text)
    }
}

#[test]
fn the_text_encoder_is_named_before_the_first_step() {
    for pooled in [false, true] {
        let mut pipeline = tiny();
        let inner = pipeline.text_encoder.clone();
        pipeline.text_encoder = Spoilt { inner, pooled }.into();
        let (component, step, _, _) = named(pipeline.start(&request()).unwrap_err());
        assert_eq!((component, step), ("the text encoder", None));
    }
}

#[test]
fn pixels_are_finite() {
    let cpu = device("flex").unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for dtype in [DType::F32, DType::F16] {
            let pixels = Tensor::<4>::full([1, 3, 8, 8], bad, (&cpu, dtype));
            let (component, _, found, message) = named(image_from_pixels(pixels).unwrap_err());
            assert_eq!((component, found), ("the autoencoder", dtype));
            assert_eq!(
                message.contains("try f32"),
                dtype == DType::F16,
                "{message}"
            );
        }
    }
    let far = Tensor::<4>::full([1, 3, 8, 8], 1e30, (&cpu, DType::F32));
    assert_eq!(image_from_pixels(far).unwrap().get_pixel(0, 0).0, [255; 3]);
}

#[test]
fn what_a_request_gives_is_refused_before_any_step() {
    let cpu = device("flex").unwrap();
    let bad = |c| Tensor::<4>::full([1, c, 8, 8], f32::NAN, (&cpu, DType::F32));
    let latents = Request {
        start: Start::Initial(bad(4)),
        ..request()
    };
    let concat = Request {
        concat: Some(bad(5)),
        ..request()
    };
    let plain = failing(9, 0.0, FloatDType::F32);
    let mut spec = plain.denoiser.spec().clone();
    spec.concat_channels = 5;
    let mut beside = plain.clone();
    beside.denoiser = Slot::from(Failing {
        spec,
        at: 9,
        bad: 0.0,
    });
    for (pipeline, request, expected) in [(plain, latents, "latents"), (beside, concat, "concat")] {
        match pipeline.start(&request).unwrap_err() {
            Error::Component(CoreError::InvalidArgument { name, .. }) => assert_eq!(name, expected),
            other => panic!("another kind of error: {other:?}"),
        }
    }
}
