//! Pictures drawn anew in part: final latents and finished bytes, by all three rules.

use std::collections::HashMap;

use image::{ImageBuffer, Luma};
use sd_fixtures::Fixture;
use sd_pipeline::{
    Error, GrayImage, Inpaint, MaskRule, Opaque, OpenOptions, PictureStart, Pipeline, Request,
    RgbImage, Start, Watermark, device,
};
use sd_tiny::micro::{Family, Layout, Micro};
use serde_json::Value;

/// Largest difference of the latents, whose values go up to a few dozens.
const LATENTS: f64 = 1e-3;

fn open(family: &str) -> Pipeline {
    let name = |family: &Family| format!("{family:?}").to_lowercase();
    let family = Family::ALL.into_iter().find(|known| name(known) == family);
    let files = Micro::new(family.unwrap(), Layout::Diffusers, 0)
        .unwrap()
        .files();
    Pipeline::from_files(&files, &OpenOptions::new(&device("flex").unwrap())).unwrap()
}

fn pixels<P: Opaque>(fixture: &Fixture, key: &str) -> ImageBuffer<P, Vec<u8>> {
    let shape = fixture.shape(key);
    let bytes = fixture.values(key).into_iter().map(|byte| byte as u8);
    ImageBuffer::from_raw(shape[1] as u32, shape[0] as u32, bytes.collect()).unwrap()
}

fn inpaint(fixture: &Fixture, case: &Value) -> Inpaint {
    let picture = case["picture"].as_str().unwrap();
    let mask = case["mask"].as_str().unwrap_or("mask");
    Inpaint {
        rule: match case["rule"].as_str() {
            Some("model") => MaskRule::Model,
            Some("soft") => MaskRule::Soft,
            _ => MaskRule::Step,
        },
        blur: case["blur"].as_f64().unwrap_or(0.0) as f32,
        masked_only: case["padding"].as_u64().map(|padding| padding as u32),
        feather: 0,
        ..Inpaint::new(pixels(fixture, &format!("{picture}.{mask}")))
    }
}

fn request(fixture: &Fixture, case: &Value) -> Request {
    let number = |key: &str| case[key].as_u64().map(|n| n as usize);
    let picture = case["picture"].as_str().unwrap();
    let image = pixels(fixture, &format!("{picture}.picture"));
    Request {
        negative_prompt: case["negative"].as_str().map(Into::into),
        guidance_scale: case["guidance"].as_f64().unwrap(),
        steps: number("steps").unwrap(),
        width: number("width"),
        height: number("height"),
        seed: number("seed").unwrap() as u64,
        count: number("count").unwrap_or(1),
        start: Start::Picture(PictureStart {
            inpaint: Some(inpaint(fixture, case)),
            ..PictureStart::new(image, case["strength"].as_f64().unwrap())
        }),
        ..Request::new(case["prompt"].as_str().unwrap())
    }
}

/// Whatever a case's name begins with, against the fixture.
fn compare(kind: &str, expected: usize) {
    let fixture = Fixture::open("inpaint");
    let settings = fixture.settings();
    let mut pipelines = HashMap::new();
    let cases = settings.as_object().unwrap().iter();
    let cases = cases.filter(|(name, _)| name.split('.').next() == Some(kind));
    let (mut compared, mut far) = (0, Vec::new());
    for (name, case) in cases {
        let family = case["family"].as_str().unwrap();
        let pipeline: &mut Pipeline = pipelines.entry(family).or_insert_with(|| open(family));
        pipeline
            .set_scheduler(case["scheduler"].as_str().unwrap())
            .unwrap();
        let mut run = pipeline.start(&request(&fixture, case)).unwrap();
        for step in &mut run {
            step.unwrap();
        }
        let found: Vec<f32> = run.latents().try_to_vec_as().unwrap();
        let key = format!("{name}.latents");
        assert_eq!(run.latents().dims().to_vec(), fixture.shape(&key), "{name}");
        let values = fixture.values(&key);
        let off = found
            .iter()
            .zip(&values)
            .map(|(f, e)| (f64::from(*f) - e).abs());
        let off = off.fold(0.0, |far: f64, off| if far >= off { far } else { off });
        println!("{name}: {off:.1e}");
        if off.is_nan() || off > LATENTS {
            far.push(format!("{name}: {off:.1e}"));
        }
        if case["padding"].is_u64() {
            let found = run.images().unwrap().remove(0).image;
            let result: RgbImage = pixels(&fixture, &format!("{name}.result"));
            assert_eq!(found.dimensions(), result.dimensions(), "{name}");
            // Rounded in other places, a byte may come out one off, before it is resized.
            let off = found.iter().zip(result.iter()).map(|(a, b)| a.abs_diff(*b));
            let (most, differ) = (off.clone().max(), off.filter(|off| *off > 0).count());
            println!(
                "{name}: {differ} of {} bytes differ, by {most:?}",
                found.len()
            );
            assert!(most <= Some(1) && differ * 500 <= found.len(), "{name}");
        }
        compared += 1;
    }
    assert_eq!(compared, expected, "{kind}");
    assert!(far.is_empty(), "{far:#?}");
}

#[test]
fn blending_after_each_step_equals_diffusers() {
    compare("step", 91);
}

#[test]
fn a_part_drawn_alone_and_put_back_equals_diffusers() {
    compare("crop", 3);
}

#[test]
fn a_masked_model_equals_its_formula() {
    compare("model", 16);
}

#[test]
fn grey_is_a_strength_for_each_pixel() {
    compare("soft", 28);
}

/// A pipeline, and a request to it that [`refusals`](what_cannot_be_drawn_is_refused) change.
fn small(family: &str) -> (Pipeline, Request) {
    let image = RgbImage::from_fn(67, 61, |x, y| [3 * x as u8, 4 * y as u8, 99].into());
    let mask = GrayImage::from_fn(67, 61, |x, _| Luma([if x < 30 { 0 } else { 255 }]));
    let request = Request {
        steps: 3,
        guidance_scale: 1.0,
        start: Start::Picture(PictureStart {
            inpaint: Some(Inpaint::new(mask)),
            ..PictureStart::new(image, 0.7)
        }),
        ..Request::new("a photo of nothing")
    };
    (open(family), request)
}

fn mask(request: &mut Request) -> &mut Inpaint {
    match &mut request.start {
        Start::Picture(start) => start.inpaint.as_mut().unwrap(),
        _ => unreachable!("it starts from a picture"),
    }
}

#[test]
fn what_is_not_repainted_keeps_its_bytes_and_the_picture_its_size() {
    for family in ["sd1", "sd1inpaint"] {
        let (pipeline, mut request) = small(family);
        let Start::Picture(start) = request.start.clone() else {
            unreachable!("it starts from a picture")
        };
        for (rule, masked_only) in [
            (MaskRule::Step, None),
            (MaskRule::Model, None),
            (MaskRule::Soft, None),
            (MaskRule::Step, Some(5)),
        ] {
            let inpaint = mask(&mut request);
            inpaint.rule = rule;
            inpaint.masked_only = masked_only;
            inpaint.keep_unmasked = true;
            let pictures = pipeline.generate(&request).unwrap();
            let found = &pictures[0].image;
            assert_eq!(found.dimensions(), (67, 61));
            let pairs = found.enumerate_pixels().zip(start.image.pixels());
            let mut changed = 0;
            for ((x, y, new), old) in pairs {
                match x < 30 {
                    true => assert_eq!(new, old, "{family} {rule:?} {x} {y}"),
                    false => changed += usize::from(new != old),
                }
            }
            assert!(changed > 1000, "{family} {rule:?} {changed}");
        }
    }
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let (pipeline, request) = small("sd1");
    let refused = |change: &dyn Fn(&mut Request)| {
        let mut request = request.clone();
        change(&mut request);
        match pipeline.start(&request) {
            Err(Error::Component(error)) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let black = |r: &mut Request| mask(r).mask.fill(0);
    assert!(refused(&black).contains("mask is black everywhere; expected white"));
    let other = |r: &mut Request| mask(r).mask = GrayImage::from_pixel(8, 8, Luma([255]));
    assert!(refused(&other).contains("mask is 8x8; expected 67x61"));
    let empty = |r: &mut Request| mask(r).mask = GrayImage::new(0, 0);
    assert!(refused(&empty).contains("mask is 0x0; expected 67x61"));
    // Grey that is nowhere white enough, or gone once shrunk, and white that no latent's pixel sees.
    let dark = |r: &mut Request| mask(r).mask.fill(127);
    assert!(refused(&dark).contains("too dark"));
    let shrunk = |r: &mut Request| {
        mask(r).grow = -40;
        mask(r).masked_only = Some(0);
    };
    assert!(refused(&shrunk).contains("black everywhere once shrunk"));
    let thin = |r: &mut Request| {
        mask(r).mask.fill(0);
        mask(r).mask.put_pixel(13, 13, Luma([255]));
    };
    assert!(refused(&thin).contains("too small"));
    for blur in [f32::NAN, f32::INFINITY, -1.0, 1e9] {
        let found = refused(&|r| mask(r).blur = blur);
        assert!(
            found.starts_with("blur is") && found.contains("expected 0 to 1024"),
            "{found}"
        );
    }
    for grow in [i32::MIN, i32::MAX] {
        let found = refused(&|r| mask(r).grow = grow);
        assert!(found.contains("expected -1024 to 1024"), "{found}");
    }
    let feather = |r: &mut Request| mask(r).feather = u32::MAX;
    assert!(refused(&feather).contains("expected at most 254 pixels"));
    let handed = |r: &mut Request| r.end = Some(0.8);
    assert!(refused(&handed).contains("end is some; expected none"));
    let marked = |r: &mut Request| {
        mask(r).keep_unmasked = true;
        r.watermark = Some("0101".parse::<Watermark>().unwrap().into());
    };
    assert!(refused(&marked).contains("watermark is some; expected none"));
    let cut = |r: &mut Request| {
        mask(r).keep_unmasked = true;
        if let Start::Picture(start) = &mut r.start {
            start.resize = sd_pipeline::Resize::Crop;
        }
    };
    assert!(refused(&cut).contains("resize is crop; expected stretch or fit"));

    let mut adaptive = pipeline.clone();
    adaptive.set_scheduler("DPM adaptive").unwrap();
    let mut soft = request.clone();
    mask(&mut soft).rule = MaskRule::Soft;
    let error = adaptive.start(&soft).unwrap_err().to_string();
    assert!(
        error.contains("rule is soft; expected step or model"),
        "{error}"
    );
}

/// A run goes on from its file with what is between, whatever the rule.
#[test]
fn a_saved_run_goes_on_by_the_same_rule() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let (mut pipeline, mut request) = small("sd1");
    pipeline.set_scheduler("Euler a").unwrap();
    request.steps = 6;
    for rule in [MaskRule::Step, MaskRule::Model, MaskRule::Soft] {
        mask(&mut request).rule = rule;
        let mut run = pipeline.start(&request).unwrap();
        run.next().unwrap().unwrap();
        run.next().unwrap().unwrap();
        run.save(&path).unwrap();
        let mut resumed = pipeline.resume(&request, &path).unwrap();
        for run in [&mut run, &mut resumed] {
            for step in run {
                step.unwrap();
            }
        }
        let [one, other] =
            [&run, &resumed].map(|run| run.latents().try_to_vec_as::<f32>().unwrap());
        assert_eq!(one, other, "{rule:?}");
    }
}
