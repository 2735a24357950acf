//! Pictures drawn from a picture equal diffusers', from the encoded picture to the final latents.

use image::{GrayImage, Luma, RgbImage, imageops};
use sd_fixtures::Fixture;
use sd_pipeline::{OpenOptions, PictureStart, Pipeline, Request, Start, device};
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
    Request {
        negative_prompt: case["negative"].as_str().map(Into::into),
        guidance_scale: case["guidance"].as_f64().unwrap(),
        steps: case["steps"].as_u64().unwrap() as usize,
        seed: case["seed"].as_u64().unwrap(),
        count: case["count"].as_u64().unwrap_or(1) as usize,
        start: Start::Picture(PictureStart::new(image, case["strength"].as_f64().unwrap())),
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

/// Black is kept, to the last bit that the solver's scale leaves; white is drawn.
#[test]
fn a_masked_run_keeps_what_is_black() {
    let fixture = Fixture::open("image_to_image");
    let image = picture(&fixture);
    let mask = GrayImage::from_fn(72, 56, |x, _| Luma([if x < 40 { 0 } else { 255 }]));
    for scheduler in [
        "DDIM",
        "Euler a",
        "Heun",
        "DPM++ 2M Karras",
        "PNDM",
        "DPM adaptive",
    ] {
        let pipeline = tiny(scheduler);
        let masked = |mask| Request {
            steps: 6,
            guidance_scale: 2.0,
            seed: 3,
            start: Start::Picture(PictureStart {
                mask,
                ..PictureStart::new(image.clone(), 0.7)
            }),
            ..Request::new("a yellow star")
        };
        let finals = |mask| {
            let mut run = pipeline.start(&masked(mask)).unwrap();
            for step in &mut run {
                step.unwrap();
            }
            run.latents().try_to_vec_as::<f32>().unwrap()
        };
        let kept = finals(Some(GrayImage::new(72, 56)));
        let halves = finals(Some(mask.clone()));
        let whole = finals(None);
        let mut changed = 0f32;
        for (i, half) in halves.iter().enumerate() {
            // Column 5 of 9 is where the mask's edge lies.
            match i % 9 {
                0..=4 => assert!((half - kept[i]).abs() < 1e-4, "{scheduler}: {i}"),
                _ => changed = changed.max((half - kept[i]).abs()),
            }
        }
        assert!(changed > 0.1, "{scheduler}");
        assert_ne!(whole, kept);
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
            start.mask = Some(GrayImage::new(8, 8));
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
