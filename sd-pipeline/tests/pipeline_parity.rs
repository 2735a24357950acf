//! Whole generations equal diffusers': same model, same seed, same picture.

use sd_fixtures::Fixture;
use sd_pipeline::{OpenOptions, Pipeline, Request, Result, device};
use serde_json::Value;

fn pipeline(scheduler: Option<&str>) -> Result<Pipeline> {
    let options = OpenOptions {
        scheduler: scheduler.map(Into::into),
        ..OpenOptions::new(&device("flex")?)
    };
    Pipeline::from_files(&sd_tiny::files(), &options)
}

fn request(case: &Value) -> Request {
    let number = |key: &str| case[key].as_u64();
    Request {
        negative_prompt: case["negative"].as_str().map(Into::into),
        guidance_scale: case["guidance"].as_f64().unwrap(),
        steps: number("steps").unwrap() as usize,
        seed: number("seed").unwrap(),
        width: number("width").map(|n| n as usize),
        height: number("height").map(|n| n as usize),
        count: number("count").unwrap_or(1) as usize,
        ..Request::new(case["prompt"].as_str().unwrap())
    }
}

#[test]
fn latents_and_pictures_equal_diffusers() {
    let fixture = Fixture::open("pipeline");
    let cases = fixture.settings();
    for (name, case) in cases.as_object().unwrap() {
        let pipeline = pipeline(case["scheduler"].as_str()).unwrap();
        let request = request(case);
        let mut run = pipeline.start(&request).unwrap();
        run.by_ref().for_each(|step| {
            step.unwrap();
        });
        assert!(run.is_finished());
        assert_eq!(run.truncated().is_empty(), name != "cut_prompt", "{name}");
        fixture.assert_tensor(&format!("{name}.latents"), run.latents().clone(), 1e-3);

        let key = format!("{name}.pictures");
        let images = run.images().unwrap();
        let found: Vec<u8> = images.iter().flat_map(|i| i.as_raw().clone()).collect();
        let [n, height, width, 3] = fixture.shape(&key)[..] else {
            panic!("{key} is [n, h, w, 3]")
        };
        assert_eq!(n, images.len());
        assert_eq!(images[0].dimensions(), (width as u32, height as u32));
        let differ = |(f, e): &(&u8, &f64)| (f64::from(**f) - **e).abs() > 1.0;
        let off = found
            .iter()
            .zip(&fixture.values(&key))
            .filter(differ)
            .count();
        let share = off as f64 / found.len() as f64;
        assert!(
            share <= 1e-3,
            "{name}: {share} of the bytes are off by more than 1"
        );
    }
    assert_eq!(cases.as_object().unwrap().len(), 8);
}
