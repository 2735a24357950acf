//! Pictures drawn from a picture equal diffusers', from the encoded picture to the final latents.

use image::{GrayImage, Luma, RgbImage, imageops};
use sd_fixtures::Fixture;
use sd_pipeline::burn::tensor::Tensor;
use sd_pipeline::{
    Handover, Inpaint, Level, MaskRule, Noise, OpenOptions, PictureStart, Pipeline, Request,
    Resampling, Resize, SampleMode, SeededNoise, SizeConditioning, Start, device,
};
use serde_json::Value;

fn tiny(scheduler: &str) -> Pipeline {
    let options = OpenOptions {
        scheduler: Some(scheduler.into()),
        ..OpenOptions::new(&device("flex").unwrap())
    };
    Pipeline::from_files(&sd_tiny::files(), &options).unwrap()
}

fn picture(fixture: &Fixture) -> RgbImage {
    let bytes = fixture.values("picture").iter().map(|v| *v as u8).collect();
    RgbImage::from_raw(72, 56, bytes).unwrap()
}

fn request(case: &Value, fixture: &Fixture) -> Request {
    let mut image = picture(fixture);
    if case["picture"] == "odd" {
        image = imageops::crop_imm(&image, 0, 0, 71, 45).to_image();
    }
    let strength = case["strength"].as_f64().unwrap();
    Request {
        start: Start::Picture(PictureStart::new(image, strength)),
        ..request_of(case)
    }
}

fn request_of(case: &Value) -> Request {
    Request {
        negative_prompt: case["negative"].as_str().map(Into::into),
        guidance_scale: case["guidance"].as_f64().unwrap(),
        steps: case["steps"].as_u64().unwrap() as usize,
        seed: case["seed"].as_u64().unwrap(),
        count: case["count"].as_u64().unwrap_or(1) as usize,
        ..Request::new(case["prompt"].as_str().unwrap())
    }
}

#[test]
fn initial_and_final_latents_equal_diffusers() {
    let fixture = Fixture::open("image_to_image");
    let settings = fixture.settings();
    let cases = settings.as_object().unwrap();
    assert_eq!(cases.len(), 66);
    for (name, case) in cases {
        let pipeline = tiny(case["scheduler"].as_str().unwrap());
        let request = request(case, &fixture);
        let mut run = pipeline.start(&request).unwrap();
        let initial = run.latents().clone();
        fixture.assert_tensor(&format!("{name}.initial"), initial, 2e-5);
        let mut steps = 0;
        for step in &mut run {
            let step = step.unwrap();
            steps += 1;
            assert_eq!(step.done, steps);
        }
        assert!(run.is_finished());
        fixture.assert_tensor(&format!("{name}.latents"), run.latents().clone(), 1e-3);
    }
}

#[test]
fn a_picture_is_its_sample_or_the_mean_of_them() {
    let fixture = Fixture::open("image_to_image");
    let pipeline = tiny("DDIM");
    let image = picture(&fixture);
    let encode = |mode, seed, count| pipeline.encode(&image, mode, seed, count).unwrap();
    let mean = encode(SampleMode::Mean, 5, 1);
    fixture.assert_tensor("mean", mean.clone(), 2e-5);
    let settings = fixture.settings();
    let seed = settings["two"]["seed"].as_u64().unwrap();
    let samples = encode(SampleMode::Sample, seed, 2);
    fixture.assert_tensor("two.encoded", samples, 2e-5);
    // Of the mean the first draw of the seed is the noise on it.
    let request = Request {
        seed: 5,
        steps: 10,
        start: Start::Picture(PictureStart {
            sample_mode: SampleMode::Mean,
            ..PictureStart::new(image.clone(), 0.5)
        }),
        ..Request::new("a ring")
    };
    let run = pipeline.start(&request).unwrap();
    let noise = SeededNoise::new(5, 1).normal(mean.dims()).unwrap();
    let noise = Tensor::<4>::from_data(noise, &mean.device());
    let level = run.level();
    let off = run.latents().clone() - mean * level.alpha - noise * level.sigma;
    assert!(off.abs().max().into_scalar::<f32>() < 1e-5);
}

/// SDXL and its refiner by themselves; and a picture taken for what another model left.
#[test]
fn latents_of_sdxl_equal_diffusers() {
    let fixture = Fixture::open("image_to_image_xl");
    let bytes = fixture.values("picture").iter().map(|v| *v as u8).collect();
    let odd = RgbImage::from_raw(71, 53, bytes).unwrap();
    let settings = fixture.settings();
    let cases = settings.as_object().unwrap();
    assert_eq!(cases.len(), 80);
    let options = OpenOptions::new(&device("flex").unwrap());
    let open = |model: &str| Pipeline::open(sd_fixtures::path("xl").join(model), &options).unwrap();
    let mut pipelines = ["base", "refiner"].map(open);
    for (name, case) in cases {
        let pipeline = &mut pipelines[usize::from(case["model"] == "refiner")];
        let scheduler = case["scheduler"].as_str().unwrap();
        pipeline.set_scheduler(scheduler).unwrap();
        let mut request = request_of(case);
        request.start = match case["at"].as_f64() {
            Some(at) => {
                let drawn = Resize::Stretch.apply(&odd, 64, 48, Resampling::Lanczos);
                let latents = pipeline.encode(&drawn.unwrap(), SampleMode::Sample, request.seed, 1);
                let level = Level::variance_exploding(0.0, 0.0);
                let mut handover = Handover::new(latents.unwrap(), level, at);
                handover.draws = 1;
                Start::Handover(Box::new(handover))
            }
            None => {
                let strength = case["strength"].as_f64().unwrap();
                Start::Picture(PictureStart::new(odd.clone(), strength))
            }
        };
        if let Some(sizes) = case.get("sizes") {
            let pair = |key: &str| [0, 1].map(|k| sizes[key][k].as_u64().unwrap() as usize);
            let of = |prefix: &str| SizeConditioning {
                original: pair(&format!("{prefix}original_size")),
                target: pair(&format!("{prefix}target_size")),
                crop: pair("crops_coords_top_left"),
                aesthetic_score: None,
            };
            request.size = Some(of(""));
            let differs = sizes.get("negative_original_size").is_some();
            request.negative_size = differs.then(|| of("negative_"));
        }
        let mut run = pipeline.start(&request).unwrap();
        for step in &mut run {
            step.unwrap();
        }
        fixture.assert_tensor(&format!("{name}.latents"), run.latents().clone(), 1e-3);
    }
}

/// Black is kept, to the last bit that the solver's scale leaves; white is drawn.
#[test]
fn a_masked_run_keeps_what_is_black() {
    let fixture = Fixture::open("image_to_image");
    let image = picture(&fixture);
    for scheduler in [
        "DDIM",
        "Euler a",
        "Heun",
        "DPM++ 2M Karras",
        "PNDM",
        "DPM adaptive",
    ] {
        let pipeline = tiny(scheduler);
        for rule in [MaskRule::Step, MaskRule::Model] {
            let finals = |first: Option<u32>| {
                let white = |first: u32| {
                    GrayImage::from_fn(72, 56, |x, _| Luma([if x < first { 0 } else { 255 }]))
                };
                let inpaint = first.map(|first| Inpaint {
                    rule,
                    ..Inpaint::new(white(first))
                });
                let request = Request {
                    steps: 6,
                    guidance_scale: 2.0,
                    seed: 3,
                    start: Start::Picture(PictureStart {
                        inpaint,
                        ..PictureStart::new(image.clone(), 0.7)
                    }),
                    ..Request::new("a yellow star")
                };
                let mut run = pipeline.start(&request).unwrap();
                for step in &mut run {
                    step.unwrap();
                }
                run.latents().try_to_vec_as::<f32>().unwrap()
            };
            let [kept, halves, whole] = [Some(64), Some(40), None].map(finals);
            let mut changed = 0f32;
            for (i, half) in halves.iter().enumerate() {
                // Column 5 of 9 is where the mask's edge lies.
                match i % 9 {
                    0..=4 => assert!((half - kept[i]).abs() < 1e-4, "{scheduler}: {i}"),
                    _ => changed = changed.max((half - kept[i]).abs()),
                }
            }
            assert!(changed > 0.1, "{scheduler} {rule:?}");
            assert_ne!(whole, kept);
        }
    }
}

#[test]
fn what_does_not_fit_the_picture_is_refused() {
    let fixture = Fixture::open("image_to_image");
    let pipeline = tiny("DDIM");
    let refused = |change: &dyn Fn(&mut Request)| {
        let mut request = Request {
            start: Start::Picture(PictureStart::new(picture(&fixture), 0.5)),
            ..Request::new("a yellow star")
        };
        change(&mut request);
        pipeline.start(&request).unwrap_err().to_string()
    };
    let strength = |value: f64| {
        move |r: &mut Request| {
            if let Start::Picture(start) = &mut r.start {
                start.strength = value;
            }
        }
    };
    assert!(refused(&strength(f64::NAN)).contains("strength is NaN"));
    assert!(refused(&strength(1.5)).contains("expected 0 to 1"));
    assert!(refused(&strength(0.001)).contains("no step is left"));
    let small = refused(&|r| {
        if let Start::Picture(start) = &mut r.start {
            start.inpaint = Some(Inpaint::new(GrayImage::new(8, 8)));
        }
    });
    assert!(small.contains("mask is 8x8; expected 72x56"), "{small}");
    for (width, height) in [(7, 56), (72, 1), (1, 1), (0, 0)] {
        let small = refused(&|r| {
            if let Start::Picture(start) = &mut r.start {
                start.image = RgbImage::new(width, height);
            }
        });
        let found = format!("picture is {width}x{height}; expected at least 8x8");
        assert!(small.contains(&found), "{small}");
    }
}
