//! Every family's micro model draws what diffusers' own pipeline of that family draws from it.
#![cfg(feature = "micro")]

use image::Rgb;
use sd_fixtures::Fixture;
use sd_pipeline::burn::tensor::Tensor;
use sd_pipeline::{OpenOptions, PictureStart, Pipeline, Request, RgbImage, Run, Start, device};
use sd_tiny::micro::{Family, Layout, Micro};
use serde_json::Value;

/// Largest difference of the latents, whose values go up to a few dozens.
const LATENTS: f64 = 5e-4;
/// Largest difference of the embedded texts, whose values go up to 15: torch's own in f32 are off
/// by 1.3e-5 there.
const TOKENS: f64 = 2e-5;
/// The same of the pooled texts, whose values go up to 2.
const POOLED: f64 = 2e-6;

fn name(family: Family) -> String {
    format!("{family:?}").to_lowercase()
}

fn open(family: Family) -> Pipeline {
    let files = Micro::new(family, Layout::Diffusers, 0).unwrap().files();
    Pipeline::from_files(&files, &OpenOptions::new(&device("flex").unwrap())).unwrap()
}

/// `pipeline` with the scheduler that the case names, if it names one.
fn with_scheduler(pipeline: &Pipeline, case: &Value) -> Pipeline {
    let mut pipeline = pipeline.clone();
    if let Some(scheduler) = case["scheduler"].as_str() {
        pipeline.set_scheduler(scheduler).unwrap();
    }
    pipeline
}

/// Colours that run across it, as in `families.py`.
fn picture(width: u32, height: u32) -> RgbImage {
    let colour = |x, y| [x * 255 / width, y * 255 / height, (x + y) % 256].map(|c| c as u8);
    RgbImage::from_fn(width, height, |x, y| Rgb(colour(x, y)))
}

fn request(pipeline: &Pipeline, case: &Value) -> Request {
    let number = |key: &str| case[key].as_u64().map(|n| n as usize);
    let text = |key: &str| case[key].as_str().map(Into::into);
    Request {
        negative_prompt: text("negative"),
        guidance_scale: case["guidance"].as_f64().unwrap(),
        steps: number("steps").unwrap(),
        width: number("width"),
        height: number("height"),
        seed: number("seed").unwrap() as u64,
        ..Request::for_pipeline(pipeline, case["prompt"].as_str().unwrap())
    }
}

fn finished(pipeline: &Pipeline, request: &Request) -> Run {
    let mut run = pipeline.start(request).unwrap();
    for step in &mut run {
        step.unwrap();
    }
    run
}

#[test]
fn every_family_draws_what_its_own_pipeline_draws() {
    let fixture = Fixture::open("families");
    let settings = fixture.settings();
    let mut compared = Comparison::default();
    for family in Family::ALL {
        let (family, pipeline) = (name(family), open(family));
        let cases = settings[&family].as_object().unwrap();
        let cases = cases.iter().filter(|(_, case)| case.is_object());
        assert!(cases.clone().count() >= 3, "{family}");
        for (case_name, case) in cases {
            let key = format!("{family}.{case_name}");
            let pipeline = with_scheduler(&pipeline, case);
            let mut request = request(&pipeline, case);
            if pipeline.denoiser.spec().concat_channels > 0 {
                let device = &pipeline.denoiser.spec().device;
                request.concat = Some(fixture.tensor(&format!("{key}.concat"), device));
            }
            if let Some(strength) = case["strength"].as_f64() {
                let [.., h, w] = fixture.shape(&format!("{key}.latents"))[..] else {
                    unreachable!("latents have four sides")
                };
                request.start = Start::Picture(PictureStart::new(
                    picture(8 * w as u32, 8 * h as u32),
                    strength,
                ));
            }
            let run = finished(&pipeline, &request);
            let latents = format!("{key}.latents");
            compared.tensor(&fixture, &latents, run.latents(), LATENTS);
            if case["picture"] == true {
                let found = run.images().unwrap().remove(0).image.into_raw();
                compared.picture(&fixture, &format!("{key}.picture"), &found);
            }
        }
    }
    compared.assert_near();
}

/// The comparisons of a test: all are made before it fails, and are printed as a table.
#[derive(Default)]
struct Comparison {
    far: Vec<String>,
}

impl Comparison {
    /// `found` against the fixture's `key`: nowhere further off than `tolerance`.
    fn tensor<const D: usize>(
        &mut self,
        fixture: &Fixture,
        key: &str,
        found: &Tensor<D>,
        tolerance: f64,
    ) {
        assert_eq!(found.dims().to_vec(), fixture.shape(key), "{key}");
        let expected = fixture.values(key);
        let found: Vec<f32> = found.try_to_vec_as().unwrap();
        let pairs = found.iter().zip(&expected);
        let far = pairs
            .map(|(f, e)| (f64::from(*f) - e).abs())
            // A NaN is the worst there is.
            .fold(0.0, |far: f64, d| match far >= d || far.is_nan() {
                true => far,
                false => d,
            });
        let largest = expected.iter().fold(0.0_f64, |m, e| m.max(e.abs()));
        self.row(key, format!("{far:.1e} of {largest:.1}"), far <= tolerance);
    }

    /// A picture's bytes: within 1 but for one in a thousand.
    fn picture(&mut self, fixture: &Fixture, key: &str, found: &[u8]) {
        let expected = fixture.values(key);
        assert_eq!(found.len(), expected.len(), "{key}");
        let differ = |(f, e): &(&u8, &f64)| (f64::from(**f) - **e).abs() > 1.0;
        let off = found.iter().zip(&expected).filter(differ).count();
        self.row(key, format!("{off} bytes off"), off <= found.len() / 1000);
    }

    fn row(&mut self, key: &str, found: String, near: bool) {
        println!("{key:32} {found}");
        if !near {
            self.far.push(format!("{key}: {found}"));
        }
    }

    fn assert_near(self) {
        let far = self.far;
        assert!(far.is_empty(), "python fixtures/gen/families.py: {far:#?}");
    }
}

#[test]
fn texts_are_embedded_as_by_transformers() {
    let fixture = Fixture::open("families");
    let settings = fixture.settings();
    let mut compared = Comparison::default();
    let embedded = [Family::Sd1, Family::Sd2, Family::Sdxl, Family::SdxlRefiner];
    for family in embedded {
        let (family, pipeline) = (name(family), open(family));
        let texts: Vec<String> =
            serde_json::from_value(settings[&family]["texts"].clone()).unwrap();
        let texts: Vec<_> = texts.iter().map(|text| text.as_str().into()).collect();
        let found = pipeline.text_encoder.get().unwrap().encode(&texts).unwrap();
        compared.tensor(&fixture, &format!("{family}.tokens"), &found.tokens, TOKENS);
        let pooled = format!("{family}.pooled");
        if fixture.keys().contains(&pooled) {
            compared.tensor(&fixture, &pooled, &found.pooled.unwrap(), POOLED);
        }
    }
    compared.assert_near();
}

#[test]
fn a_refiner_goes_on_where_the_base_hands_over() {
    let fixture = Fixture::open("families");
    let settings = fixture.settings();
    let mut compared = Comparison::default();
    let [base, refiner] = [Family::Sdxl, Family::SdxlRefiner].map(open);
    for solver in ["euler", "heun"] {
        for cut in ["5", "8"] {
            let key = format!("handover.{solver}.{cut}");
            let case = &settings[&key];
            let [base, refiner] = [&base, &refiner].map(|model| with_scheduler(model, case));
            let request = Request {
                end: case["at"].as_f64(),
                ..request(&base, case)
            };
            let left = finished(&base, &request).hand_over().unwrap();
            compared.tensor(&fixture, &format!("{key}.left"), &left.latents, LATENTS);
            let run = finished(&refiner, &request.refining(left));
            let latents = format!("{key}.latents");
            compared.tensor(&fixture, &latents, run.latents(), LATENTS);
        }
    }
    compared.assert_near();
}
