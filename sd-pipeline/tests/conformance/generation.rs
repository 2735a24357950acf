//! Whole generations on the embedded model, against diffusers.

use sd_fixtures::Fixture;
use sd_pipeline::{FloatDType, OpenOptions, Pipeline, Placement, Request, RgbImage, device};
use serde_json::Value;

use crate::report::{Log, difference, psnr_of};
use crate::{Place, tolerance};

/// One case without guidance at the model's size, and one with guidance and a multistep solver.
const CASES: [&str; 2] = ["unguided", "dpm_karras"];

pub(crate) fn check(place: &Place, log: &mut Log) {
    log.pictures = draw(place, log);
}

/// The picture of each case.
pub(crate) fn draw(place: &Place, log: &mut Log) -> Vec<RgbImage> {
    let options = options(place);
    let cases = CASES.into_iter();
    cases
        .map(|case| compare(case, place, log, &options))
        .collect()
}

/// The text encoder and the autoencoder on the CPU, the U-Net here.
pub(crate) fn mixed_placement(place: &Place, log: &mut Log) {
    let Ok(cpu) = device("flex") else {
        return log.not_here();
    };
    let on_cpu = |dtype| {
        Some(Placement {
            device: cpu.clone(),
            dtype,
        })
    };
    let options = OpenOptions {
        text_encoder: on_cpu(place.dtype),
        autoencoder: on_cpu(FloatDType::F32),
        ..options(place)
    };
    compare(CASES[0], place, log, &options);
}

fn options(place: &Place) -> OpenOptions {
    OpenOptions {
        dtype: place.dtype,
        ..OpenOptions::new(&place.device)
    }
}

fn compare(name: &str, place: &Place, log: &mut Log, options: &OpenOptions) -> RgbImage {
    let fixture = Fixture::open("pipeline");
    let case = &fixture.settings()[name];
    let tolerance = tolerance::of(place.dtype);
    let options = OpenOptions {
        scheduler: case["scheduler"].as_str().map(Into::into),
        ..options.clone()
    };
    let pipeline = Pipeline::from_files(&sd_tiny::files(), &options).expect("the model opens");
    let mut run = pipeline.start(&request(case)).expect("the request fits");
    for step in &mut run {
        step.expect("a step");
    }
    let latents = run.latents().clone();
    let key = format!("{name}.latents");
    log.at_most(
        format!("latents {name}"),
        difference(&fixture, &key, latents),
        tolerance.latents,
    );

    let picture = run.images().expect("the pictures").swap_remove(0).image;
    let expected = fixture.values(&format!("{name}.pictures"));
    let found = picture.as_raw().iter().map(|byte| f64::from(*byte));
    assert_eq!(found.len(), expected.len());
    let psnr = psnr_of(found.zip(expected).map(|(a, b)| a - b));
    log.at_least(format!("psnr {name}"), psnr, tolerance.picture);
    picture
}

pub(crate) fn request(case: &Value) -> Request {
    Request {
        guidance_scale: case["guidance"].as_f64().expect("guidance"),
        steps: case["steps"].as_u64().expect("steps") as usize,
        seed: case["seed"].as_u64().expect("seed"),
        ..Request::new(case["prompt"].as_str().expect("prompt"))
    }
}
