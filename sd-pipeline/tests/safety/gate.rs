//! Nothing leaves a run unchecked: every way to pixels, with every choice of what becomes of
//! pictures that are flagged.

use std::sync::{Arc, Mutex};

use burn::tensor::{Tensor, TensorData};

use sd_pipeline::{
    Autoencoder, AutoencoderSpec, Conditioning, Denoiser, DenoiserSpec, Error, Network, Noise,
    OnFlagged, Picture, PictureStart, Pipeline, Request, Result, RgbImage, Run, SafetyChecker,
    Start, Verdict, Watermark, device, each_branch,
};

/// Flags all that it sees, or nothing, and remembers it.
#[derive(Clone)]
struct Witness {
    flags: bool,
    seen: Arc<Mutex<Vec<RgbImage>>>,
}

impl Witness {
    fn new(flags: bool) -> Self {
        let seen = Arc::default();
        Self { flags, seen }
    }

    fn seen(&self) -> Vec<RgbImage> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl SafetyChecker for Witness {
    fn check(&self, picture: &RgbImage) -> Result<Verdict> {
        self.seen.lock().unwrap().push(picture.clone());
        Ok(Verdict::new(self.flags).with("anything", 1.0))
    }
}

/// An autoencoder whose pictures are full of detail: latents with a chequerboard on them.
struct Chequered(AutoencoderSpec);

impl Autoencoder for Chequered {
    fn spec(&self) -> &AutoencoderSpec {
        &self.0
    }

    fn encode(
        &self,
        image: Tensor<4>,
        _: Option<&mut dyn Noise>,
    ) -> sd_pipeline::core::Result<Tensor<4>> {
        let [n, _, height, width] = image.dims();
        Ok(Tensor::zeros([n, 4, height / 8, width / 8], &self.0.device))
    }

    fn decode(&self, latent: Tensor<4>) -> sd_pipeline::core::Result<Tensor<4>> {
        let [_, _, h, w] = latent.dims();
        let latent = latent.try_into_vec_as::<f32>().unwrap();
        let (height, width) = (8 * h, 8 * w);
        let pixel = |i: usize| {
            let (c, y, x) = (i / (height * width), i / width % height, i % width);
            let board = if (x + y) % 2 == 0 { 0.3 } else { -0.3 };
            0.3 * latent[(c * h + y / 8) * w + x / 8] + board
        };
        let pixels: Vec<f32> = (0..3 * height * width).map(pixel).collect();
        let data = TensorData::new(pixels, [1, 3, height, width]);
        Ok(Tensor::from_data(data, &self.0.device))
    }
}

/// A denoiser that sees noise alone, at no cost.
struct Noisy(DenoiserSpec);

impl Denoiser for Noisy {
    fn spec(&self) -> &DenoiserSpec {
        &self.0
    }

    fn prepare(
        self: Arc<Self>,
        branches: Vec<Conditioning>,
    ) -> sd_pipeline::core::Result<Box<dyn Network>> {
        each_branch("noise", branches, |x, _, _| Ok(x.clone() * 0.9))
    }
}

/// The embedded model's text encoder and scheduler with pictures full of detail.
fn unguarded() -> Pipeline {
    let mut pipeline = sd_tiny::pipeline(&device("flex").unwrap()).unwrap();
    pipeline.denoiser = Noisy(pipeline.denoiser.spec().clone()).into();
    pipeline.autoencoder = Chequered(pipeline.autoencoder.spec().clone()).into();
    pipeline
}

fn guarded(witness: &Witness, on_flagged: OnFlagged) -> Pipeline {
    let mut pipeline = unguarded();
    pipeline.safety_checker = Some(witness.clone().into());
    pipeline.on_flagged = on_flagged;
    pipeline
}

fn request() -> Request {
    Request {
        steps: 3,
        seed: 4,
        width: Some(64),
        height: Some(48),
        ..sd_tiny::request("a red cube")
    }
}

fn finished(mut run: Run) -> Result<Vec<Picture>> {
    for step in &mut run {
        step?;
    }
    run.images()
}

/// A run after one of its steps.
fn begun(pipeline: &Pipeline, request: &Request) -> Run {
    let mut run = pipeline.start(request).unwrap();
    run.next().unwrap().unwrap();
    run
}

/// Ways to finished pictures.
fn to_finished(pipeline: &Pipeline) -> Vec<(&'static str, Result<Vec<Picture>>)> {
    let request = request();
    let batch = Request {
        count: 2,
        ..request.clone()
    };
    let image = crate::picture(1, 64, 48);
    let mask = sd_pipeline::GrayImage::from_fn(64, 48, |x, _| [(x * 4) as u8].into());
    let from = |mask: Option<sd_pipeline::GrayImage>| Request {
        start: Start::Picture(PictureStart {
            inpaint: mask.map(sd_pipeline::Inpaint::new),
            ..PictureStart::new(image.clone(), 0.7)
        }),
        ..request.clone()
    };
    let noise = pipeline.start(&request).unwrap().latents().clone();
    let initial = Request {
        start: Start::Initial(noise),
        ..request.clone()
    };
    let marked = Request {
        width: Some(256),
        height: Some(256),
        watermark: Some(Watermark::sdxl().into()),
        ..request.clone()
    };
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("run.safetensors");
    begun(pipeline, &batch).save(&saved).unwrap();
    let mut cancelled = begun(pipeline, &request);
    cancelled.cancel_handle().pull();
    assert!(cancelled.next().unwrap().is_err());
    let mut adaptive = pipeline.clone();
    adaptive.set_scheduler("DPM adaptive").unwrap();
    let outliving = pipeline.clone().start(&request).unwrap();
    let half = Request {
        end: Some(0.5),
        ..request.clone()
    };
    let mut cut = pipeline.start(&half).unwrap();
    cut.by_ref().for_each(|step| assert!(step.is_ok()));
    let rest = Request {
        start: Start::Handover(Box::new(cut.hand_over().unwrap())),
        ..request.clone()
    };
    let mut ways = vec![
        ("a call", pipeline.generate(&request)),
        ("a run", finished(pipeline.start(&request).unwrap())),
        ("a batch", pipeline.generate(&batch)),
        ("a picture", pipeline.generate(&from(None))),
        ("a masked picture", pipeline.generate(&from(Some(mask)))),
        ("given noise", pipeline.generate(&initial)),
        ("a run cut short", cut.images()),
        ("a run taken over", pipeline.generate(&rest)),
        ("a marked picture", pipeline.generate(&marked)),
        (
            "a resumed run",
            finished(pipeline.resume(&batch, &saved).unwrap()),
        ),
        ("a cancelled run", finished(cancelled)),
        ("images stepped apart", adaptive.generate(&batch)),
        ("a run without its pipeline", finished(outliving)),
    ];
    #[cfg(feature = "stream")]
    {
        let stream = pipeline.start(&request).unwrap().into_stream().unwrap();
        ways.push(("a stream", stream.into_run().unwrap().images()));
    }
    ways
}

/// Ways to pictures that are not finished.
fn to_previews(pipeline: &Pipeline) -> Vec<(&'static str, Result<Vec<Picture>>)> {
    let batch = Request {
        count: 2,
        ..request()
    };
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("run.safetensors");
    begun(pipeline, &batch).save(&saved).unwrap();
    let mut cancelled = begun(pipeline, &batch);
    cancelled.cancel_handle().pull();
    assert!(cancelled.next().unwrap().is_err());
    vec![
        ("at its beginning", pipeline.start(&batch).unwrap().images()),
        ("after a step", begun(pipeline, &batch).images()),
        ("resumed", pipeline.resume(&batch, &saved).unwrap().images()),
        ("cancelled", cancelled.images()),
    ]
}

/// Mean distance of a byte from the mean of its two neighbours' in the row.
fn detail(image: &RgbImage) -> f64 {
    let rows = image
        .rows()
        .map(|row| row.map(|pixel| f64::from(pixel[1])).collect::<Vec<_>>());
    let distances = rows.flat_map(|row| {
        let row = row.windows(3);
        row.map(|w| (w[1] - (w[0] + w[2]) / 2.0).abs())
            .collect::<Vec<_>>()
    });
    let (sum, count) = distances.fold((0.0, 0.0), |(sum, count), d| (sum + d, count + 1.0));
    sum / count
}

/// `true` when `image` is no more than blotches of what `sharp` shows.
fn is_blurred(image: &RgbImage, sharp: &RgbImage) -> bool {
    image.dimensions() == sharp.dimensions() && detail(image) < 2.0 && detail(sharp) > 20.0
}

#[test]
fn a_checker_that_flags_all_lets_out_what_the_choice_allows_and_no_more() {
    let plain: Vec<_> = to_finished(&unguarded());
    let plain: Vec<_> = plain
        .into_iter()
        .map(|(_, pictures)| pictures.unwrap())
        .collect();
    let mut all = plain.iter().flatten();
    assert!(all.all(|picture| picture.verdict.is_none()));
    for choice in [
        OnFlagged::Flag,
        OnFlagged::Blur,
        OnFlagged::Black,
        OnFlagged::Refuse,
    ] {
        let witness = Witness::new(true);
        let pipeline = guarded(&witness, choice);
        let found = to_finished(&pipeline);
        assert_eq!(found.len(), plain.len());
        let mut handed_out = 0;
        for ((way, found), plain) in found.into_iter().zip(&plain) {
            if choice == OnFlagged::Refuse {
                match found.unwrap_err() {
                    Error::Flagged { seed, verdict } => assert!(seed == 4 && verdict.flagged),
                    other => panic!("{way}: {other}"),
                }
                continue;
            }
            let found = found.unwrap();
            assert_eq!(found.len(), plain.len(), "{way}");
            handed_out += found.len();
            for (found, plain) in found.iter().zip(plain) {
                let verdict = found.verdict.as_ref().unwrap();
                assert!(verdict.flagged && verdict.concepts.len() == 1, "{way}");
                assert_eq!(found.seed, plain.seed);
                let is_marked = plain.is_marked && choice == OnFlagged::Flag;
                assert_eq!(found.is_marked, is_marked, "{way}");
                assert_eq!(found.image.dimensions(), plain.image.dimensions());
                match choice {
                    OnFlagged::Flag => assert_eq!(found.image, plain.image, "{way}"),
                    OnFlagged::Black => assert!(found.image.iter().all(|byte| *byte == 0), "{way}"),
                    _ => {
                        let [found, plain] = [&found.image, &plain.image];
                        let details = [detail(found), detail(plain)];
                        assert!(is_blurred(found, plain), "{way}: {details:?}");
                    }
                }
            }
        }
        // It was shown the pictures themselves, each once.
        let seen = witness.seen();
        if choice != OnFlagged::Refuse {
            assert_eq!(seen.len(), handed_out);
            let plain = plain.iter().flatten().map(|picture| &picture.image);
            assert!(seen.iter().eq(plain), "{choice:?}");
        }
        for (way, found) in to_previews(&pipeline) {
            for found in found.unwrap() {
                assert!(
                    found.verdict.is_none() && detail(&found.image) < 2.0,
                    "{way}"
                );
            }
        }
        assert!(witness.seen().is_empty(), "previews are not checked");
    }
}

#[test]
fn a_checker_that_passes_all_changes_no_finished_picture() {
    let plain = to_finished(&unguarded());
    let witness = Witness::new(false);
    let pipeline = guarded(&witness, OnFlagged::Refuse);
    for ((way, found), (_, plain)) in to_finished(&pipeline).into_iter().zip(plain) {
        for (found, plain) in found.unwrap().iter().zip(plain.unwrap()) {
            assert_eq!(found.image, plain.image, "{way}");
            assert!(!found.verdict.as_ref().unwrap().flagged);
        }
    }
    let sharp = to_previews(&unguarded());
    for ((way, found), (_, sharp)) in to_previews(&pipeline).into_iter().zip(sharp) {
        for (found, sharp) in found.unwrap().iter().zip(sharp.unwrap()) {
            assert!(is_blurred(&found.image, &sharp.image), "{way}");
        }
    }
}

/// Fails, as a remote service may.
struct Broken;

impl SafetyChecker for Broken {
    fn check(&self, _: &RgbImage) -> Result<Verdict> {
        panic!("it is broken")
    }
}

#[test]
fn a_checker_that_fails_lets_nothing_out() {
    let mut pipeline = unguarded();
    pipeline.safety_checker = Some(Broken.into());
    pipeline.on_flagged = OnFlagged::Flag;
    let error = pipeline.generate(&request()).unwrap_err().to_string();
    assert!(
        error.contains("the safety checker") && error.contains("it is broken"),
        "{error}"
    );
}
