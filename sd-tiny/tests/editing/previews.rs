//! Previews: colours of the latents, and those of a smaller autoencoder.

use sd_fixtures::Fixture;
use sd_pipeline::burn::tensor::Tensor;
use sd_pipeline::core::{Autoencoder, AutoencoderSpec, Noise, Result as CoreResult};
use sd_pipeline::{
    FloatDType, LatentRgb, OpenOptions, Pipeline, Preview, Request, Resampling, RgbImage,
    SafetyChecker, Verdict, Watermark, device, resize,
};
use sd_tiny::micro::{Family, Layout, Micro};

use super::finished;

fn tiny() -> Pipeline {
    sd_tiny::pipeline(&device("flex").unwrap()).unwrap()
}

/// Mean distance of two pictures' bytes.
fn distance(a: &RgbImage, b: &RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    let pairs = a.as_raw().iter().zip(b.as_raw());
    let sum: f64 = pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
    sum / a.as_raw().len() as f64
}

/// A picture as small as its latent.
fn shrunk(image: &RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    resize(image, width / 8, height / 8, Resampling::Box).unwrap()
}

/// Decodes whatever it gets to these pixels.
struct Fixed {
    spec: AutoencoderSpec,
    pixels: Tensor<4>,
    next: std::sync::atomic::AtomicUsize,
}

impl Autoencoder for Fixed {
    fn spec(&self) -> &AutoencoderSpec {
        &self.spec
    }

    fn encode(&self, _: Tensor<4>, _: Option<&mut dyn Noise>) -> CoreResult<Tensor<4>> {
        unreachable!("nothing is encoded")
    }

    fn decode(&self, _: Tensor<4>) -> CoreResult<Tensor<4>> {
        let k = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(self.pixels.clone().narrow(0, k, 1))
    }
}

#[test]
fn colours_are_fitted_as_by_numpy() {
    let fixture = Fixture::open("hires");
    let device = device("flex").unwrap();
    let autoencoder = Fixed {
        spec: AutoencoderSpec {
            latent_channels: 4,
            factor: 8,
            device: device.clone(),
            dtype: FloatDType::F32,
        },
        pixels: fixture.tensor("fit.pixels", &device),
        next: 0.into(),
    };
    let latents: Tensor<4> = fixture.tensor("fit.latents", &device);
    let found = LatentRgb::fit(&autoencoder, &latents).unwrap();
    let mut rows = found.factors.to_vec();
    rows.push(found.bias);
    fixture.assert_close("fit.found", rows.as_flattened(), 1e-6);

    // Nothing is to be learned of latents that are all the same.
    autoencoder
        .next
        .store(0, std::sync::atomic::Ordering::Relaxed);
    let error = LatentRgb::fit(&autoencoder, &latents.zeros_like()).unwrap_err();
    assert!(error.to_string().contains("several pictures"), "{error}");
}

/// The tiny model's colours are what its autoencoder gives for pictures that it draws: this is how
/// they were found.
#[test]
fn the_tiny_models_colours_are_fitted_to_its_autoencoder() {
    let pipeline = tiny();
    let latents = |prompts: &[&str], seed| {
        let drawn = prompts.iter().zip(seed..).map(|(prompt, seed)| {
            let request = Request {
                steps: 8,
                seed,
                ..sd_tiny::request(*prompt)
            };
            finished(&pipeline, &request).latents().clone()
        });
        Tensor::cat(drawn.collect(), 0)
    };
    let prompts = [
        "a red cube on top of a blue sphere",
        "a green cone",
        "a small yellow ring",
        "a purple cylinder to the left of a white cube",
        "an orange sphere",
        "a black star and a pink cone",
    ];
    let autoencoder = pipeline.autoencoder.get().unwrap();
    let found = LatentRgb::fit(&*autoencoder, &latents(&prompts, 0)).unwrap();
    let known = pipeline.latent_rgb.clone().unwrap();
    let off = found.factors.as_flattened().iter().chain(&found.bias);
    let off = off.zip(known.factors.as_flattened().iter().chain(&known.bias));
    let off = off.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 5e-3, "{off}: {found:#?}");
}

#[test]
fn a_preview_shows_every_picture_at_every_step() {
    let pipeline = tiny();
    let request = Request {
        count: 2,
        seed: 3,
        steps: 10,
        ..sd_tiny::request("a red cube on top of a blue sphere")
    };
    let mut run = pipeline.start(&request).unwrap();
    let mut all = Vec::new();
    let first = run.preview(&Preview::Colours).unwrap();
    assert_eq!(first.len(), 2);
    while let Some(step) = run.next() {
        step.unwrap();
        let previews = run.preview(&Preview::Colours).unwrap();
        let seeds: Vec<u64> = previews.iter().map(|preview| preview.seed).collect();
        assert_eq!(seeds, [3, 4]);
        assert_eq!(previews[0].dimensions(), (16, 16));
        assert!(previews[0].record.request().is_err());
        all.push(previews);
    }
    let pictures = run.images().unwrap();
    for (k, picture) in pictures.iter().enumerate() {
        let whole = shrunk(picture);
        let far = |previews: &[sd_pipeline::Picture]| distance(&previews[k], &whole);
        let (last, middle, noise) = (far(&all[9]), far(&all[5]), far(&first));
        let sdxl = far(&run.preview(&Preview::LatentRgb(LatentRgb::SDXL)).unwrap());
        println!(
            "{k}: {last:.1} at the end, {middle:.1} in the middle, {noise:.1} before; \
             {sdxl:.1} in another model's colours"
        );
        assert!(last < 20.0 && middle < 20.0 && noise > 2.0 * last);
        assert!(sdxl > last);
    }
}

#[test]
fn an_autoencoder_of_the_programs_choice_draws_previews() {
    let pipeline = tiny();
    let request = Request {
        steps: 2,
        width: Some(64),
        height: Some(72),
        count: 2,
        ..sd_tiny::request("a green cone")
    };
    let mut run = pipeline.start(&request).unwrap();
    run.next().unwrap().unwrap();
    // The run's own gives what an unfinished run gives.
    let own = Preview::Autoencoder(pipeline.autoencoder.clone());
    let pictures = run.images().unwrap();
    let previews = run.preview(&own).unwrap();
    assert!(previews == pictures && pictures[0].image != pictures[1].image);
    // A tiny one's pictures are as large.
    let micro = Micro::new(Family::Sdxs, Layout::Diffusers, 0).unwrap();
    let options = OpenOptions::new(&device("flex").unwrap());
    let other = Pipeline::from_files(&micro.files(), &options).unwrap();
    let preview = run
        .preview(&Preview::Autoencoder(other.autoencoder))
        .unwrap();
    assert_eq!(preview[0].dimensions(), (64, 72));
    assert!(preview[0].image != pictures[0].image);
}

#[test]
fn colours_that_do_not_fit_are_refused() {
    let mut pipeline = tiny();
    let refused = |pipeline: &Pipeline, preview| {
        let run = pipeline.start(&sd_tiny::request("a")).unwrap();
        run.preview(&preview).unwrap_err().to_string()
    };
    for sixteen in [LatentRgb::SD3, LatentRgb::FLUX] {
        assert_eq!(sixteen.factors.len(), 16);
        let message = refused(&pipeline, Preview::LatentRgb(sixteen));
        assert!(message.contains("[n, 16, h, w]"), "{message}");
    }
    pipeline.latent_rgb = None;
    assert!(refused(&pipeline, Preview::Colours).contains("latent_rgb"));
}

#[test]
fn a_folders_kind_says_the_colours() {
    let options = OpenOptions::new(&device("flex").unwrap());
    for (family, colours) in [
        (Family::Sd2, LatentRgb::STABLE_DIFFUSION),
        (Family::SdxlRefiner, LatentRgb::SDXL),
    ] {
        let files = Micro::new(family, Layout::Diffusers, 0).unwrap().files();
        let pipeline = Pipeline::from_files(&files, &options).unwrap();
        assert_eq!(pipeline.latent_rgb, Some(colours));
    }
}

struct Asked;

impl SafetyChecker for Asked {
    fn check(&self, _: &RgbImage) -> sd_pipeline::Result<Verdict> {
        panic!("previews are not worth the checker")
    }
}

#[test]
fn with_a_checker_previews_are_blurred_and_with_a_mark_they_are_marked() {
    let mut pipeline = tiny();
    let request = Request {
        steps: 2,
        ..sd_tiny::request("a red cube on top of a blue sphere")
    };
    let own = Preview::Autoencoder(pipeline.autoencoder.clone());
    let plain = finished(&pipeline, &request);
    pipeline.safety_checker = Some(Asked.into());
    let checked = finished(&pipeline, &request);
    for preview in [&Preview::Colours, &own] {
        let [clear, blurred] =
            [&plain, &checked].map(|run| run.preview(preview).unwrap().remove(0));
        assert!(distance(&clear, &blurred) > 3.0);
        // Of what is left no two neighbours differ much.
        let rough = |image: &RgbImage| {
            let rows = image.rows().map(|row| {
                let row: Vec<_> = row.collect();
                row.windows(2)
                    .map(|two| two[0][0].abs_diff(two[1][0]))
                    .max()
            });
            rows.max().flatten().unwrap()
        };
        assert!(rough(&blurred) * 2 < rough(&clear));
    }
    pipeline.safety_checker = None;
    let marked = Request {
        steps: 1,
        width: Some(256),
        height: Some(256),
        watermark: Some(Watermark::sdxl().into()),
        ..request
    };
    let run = finished(&pipeline, &marked);
    assert!(run.preview(&own).unwrap()[0].is_marked);
    assert!(!run.preview(&Preview::Colours).unwrap()[0].is_marked);
}
