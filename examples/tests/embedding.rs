//! What embedders find behind features: requests and options as serde values, runs as streams.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use futures_core::Stream;
use image::{GrayImage, Luma, RgbImage};
use sd_pipeline::burn::tensor::Tensor;
use sd_pipeline::core::Error as CoreError;
use sd_pipeline::schedulers::{DpmSolverMultistep, Euler};
use sd_pipeline::{
    BranchEvaluation, ClassifierFree, ComponentFolders, ControlPicture, Error, FloatDType,
    Handover, HiRes, ImagePrompt, Inpaint, LayerScale, Level, MaskRule, OpenOptions, PictureStart,
    Pipeline, Placement, Prompt, Request, Resampling, Residency, Resize, SampleMode,
    SizeConditioning, Start, Upscale, WeightStorage, device,
};
use serde_json::{from_value, json, to_value};

#[test]
fn a_request_is_a_serde_value() {
    let device = device("flex").unwrap();
    let noise = Tensor::<1>::from_floats([0.25, -1.5, 3.0, 0.0], &device).reshape([1, 1, 2, 2]);
    let level = Level::variance_exploding(181.0, 0.25);
    let mut handover = Handover::new(noise.clone(), level, 0.8);
    handover.noise = Some(noise.clone());
    handover.draws = 3;
    let starts = [
        Start::Noise,
        Start::Initial(noise.clone()),
        Start::Latents {
            latents: noise.clone(),
            strength: 0.5,
            draws: 1,
        },
        Start::Handover(Box::new(handover)),
        Start::Picture(PictureStart {
            inpaint: Some(Inpaint {
                rule: MaskRule::Soft,
                masked_only: Some(4),
                blur: 1.5,
                ..Inpaint::new(GrayImage::from_pixel(3, 2, Luma([9])))
            }),
            resize: Resize::Fit,
            sample_mode: SampleMode::Mean,
            ..PictureStart::new(
                RgbImage::from_fn(3, 2, |x, y| [x as u8, y as u8, 7].into()),
                0.4,
            )
        }),
    ];
    for start in starts {
        let request = Request {
            negative_prompt: Some(Prompt::new("blurry").with_second("dull")),
            image_prompts: vec![ImagePrompt {
                mask: Some(GrayImage::from_pixel(2, 2, Luma([255]))),
                negative: vec![RgbImage::new(1, 2)],
                interval: 0.25..0.75,
                ..ImagePrompt::new(RgbImage::new(2, 1))
                    .scale(LayerScale::only([("mid_block", 0.5)]))
            }],
            seed: u64::MAX,
            width: Some(640),
            start,
            size: Some(SizeConditioning::of([512, 640])),
            negative_size: Some(SizeConditioning::of([64, 64])),
            end: Some(0.8),
            controls: vec![ControlPicture {
                mask: Some(GrayImage::from_pixel(3, 2, Luma([9]))),
                kind: Some(2),
                ..ControlPicture::new(RgbImage::new(3, 2))
                    .scale(0.5)
                    .between(0.1..0.9)
            }],
            concat: Some(noise.clone()),
            picture: Some(RgbImage::new(2, 3).into()),
            image_guidance_scale: Some(1.25),
            hires: Some(HiRes {
                steps: Some(9),
                upscaler: Upscale::Picture(Resampling::Bicubic),
                ..HiRes::new(1.5)
            }),
            evaluation: BranchEvaluation::InTurn,
            ..Request::new("a lighthouse")
        };
        let written = to_value(&request).unwrap();
        let read: Request = from_value(written.clone()).unwrap();
        assert_eq!(to_value(&read).unwrap(), written);
        assert_eq!((read.prompt, read.seed), (request.prompt, u64::MAX));
    }
    // What is not said is as in a new request.
    let read: Request = from_value(json!({ "prompt": { "text": "a cube" }, "steps": 7 })).unwrap();
    assert_eq!((read.steps, read.guidance_scale), (7, 7.5));

    let hires = json!({ "hires": { "factor": 1.25, "upscaler": "latent-nearest" } });
    let hires = from_value::<Request>(hires).unwrap().hires.unwrap();
    assert_eq!((hires.factor, hires.strength), (1.25, 0.7));
    assert_eq!(hires.upscaler.to_string(), "latent-nearest");
    let unknown = json!({ "hires": { "upscaler": "magic" } });
    let error = from_value::<Request>(unknown).unwrap_err().to_string();
    assert!(error.contains("lanczos"), "{error}");

    let own = Request {
        guidance: Some(Arc::new(ClassifierFree { scale: 3.0 })),
        ..Request::new("a cube")
    };
    let lost = to_value(&own).unwrap_err().to_string();
    assert!(
        lost.contains("guidance of the program's own types"),
        "{lost}"
    );
    let forged = json!({ "start": { "initial": { "shape": [1, 4, 4, 4], "values": [1.0] } } });
    let error = from_value::<Request>(forged).unwrap_err().to_string();
    assert!(error.contains("1 values are no tensor"), "{error}");
    let picture = json!({ "width": 4000000000u32, "height": 4000000000u32, "bytes": [1] });
    let forged = json!({ "start": { "picture": { "image": picture, "strength": 1.0 } } });
    let error = from_value::<Request>(forged).unwrap_err().to_string();
    assert!(error.contains("too few bytes"), "{error}");
}

#[test]
fn options_and_schedulers_are_serde_values() {
    let flex = device("flex").unwrap();
    let mut folders = ComponentFolders::default();
    folders.autoencoder = Some("taesd".into());
    let options = OpenOptions {
        folders,
        dtype: FloatDType::BF16,
        text_encoder: Some(Placement {
            device: flex.clone(),
            dtype: FloatDType::F32,
        }),
        scheduler: Some("DPM++ 2M Karras".into()),
        weight_storage: WeightStorage::AsStored,
        residency: Residency::PerPhase,
        memory_budget: Some(1 << 30),
        ..OpenOptions::new(&flex)
    };
    let written = to_value(&options).unwrap();
    assert_eq!(written["dtype"], "bf16");
    let read: OpenOptions = from_value(written.clone()).unwrap();
    assert_eq!(read.device, flex);
    assert_eq!(read.folders, options.folders);
    assert_eq!(to_value(&read).unwrap(), written);
    let read: OpenOptions = from_value(json!({ "device": "flex" })).unwrap();
    assert_eq!(read.dtype, FloatDType::F32);
    let error = from_value::<OpenOptions>(json!({ "device": "gpu" })).unwrap_err();
    assert!(error.to_string().contains("known are flex"), "{error}");

    // Also what JSON has no number for.
    let scheduler = DpmSolverMultistep::karras();
    assert!(scheduler.lambda_min_clipped.is_infinite());
    let read: DpmSolverMultistep = from_value(to_value(&scheduler).unwrap()).unwrap();
    assert_eq!(read, scheduler);
    let read: Euler = from_value(to_value(Euler::default()).unwrap()).unwrap();
    assert_eq!(read, Euler::default());
}

/// Wakes the thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The stream's next item, on this thread.
fn next<S: Stream>(mut stream: Pin<&mut S>) -> Option<S::Item> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match stream.as_mut().poll_next(&mut Context::from_waker(&waker)) {
            Poll::Ready(item) => return item,
            Poll::Pending => thread::park(),
        }
    }
}

fn request(steps: usize) -> Request {
    Request {
        steps,
        width: Some(64),
        height: Some(64),
        ..sd_tiny::request("a red cube")
    }
}

fn tiny() -> Pipeline {
    sd_tiny::pipeline(&device("flex").unwrap()).unwrap()
}

#[test]
fn a_run_is_a_stream_of_its_steps() {
    let pipeline = tiny();
    let expected = pipeline.generate(&request(3)).unwrap();
    let mut stream = pipeline.start(&request(3)).unwrap().into_stream().unwrap();
    let mut done = Vec::new();
    while let Some(step) = next(pin!(&mut stream)) {
        done.push(step.unwrap().done);
    }
    assert_eq!(done, [1, 2, 3]);
    assert!(next(pin!(&mut stream)).is_none());
    assert_eq!(stream.into_run().unwrap().images().unwrap(), expected);
}

#[test]
fn dropping_the_stream_cancels_the_run() {
    let pipeline = tiny();
    let mut stream = pipeline
        .start(&request(500))
        .unwrap()
        .into_stream()
        .unwrap();
    next(pin!(&mut stream)).unwrap().unwrap();
    let denoiser = pipeline.denoiser.get().unwrap();
    drop(stream);
    // The run's lease on the network ends with it, long before 500 steps are done.
    let clock = std::time::Instant::now();
    while Arc::strong_count(&denoiser) > 2 {
        assert!(clock.elapsed().as_secs() < 20, "the run goes on");
        thread::sleep(std::time::Duration::from_millis(1));
    }

    let mut stream = pipeline
        .start(&request(500))
        .unwrap()
        .into_stream()
        .unwrap();
    let handle = stream.cancel_handle();
    next(pin!(&mut stream)).unwrap().unwrap();
    handle.pull();
    let stopped = loop {
        if let Err(error) = next(pin!(&mut stream)).unwrap() {
            break error;
        }
    };
    assert!(matches!(stopped, Error::Component(CoreError::Cancelled)));
    assert!(next(pin!(&mut stream)).is_none());
    let mut run = stream.into_run().unwrap();
    assert!(!run.is_finished() && run.next().unwrap().is_ok());
}
