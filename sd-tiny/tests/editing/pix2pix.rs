//! InstructPix2Pix: a picture beside the latent, and guidance in two directions.

use std::collections::BTreeMap;

use sd_fixtures::Fixture;
use sd_pipeline::burn::tensor::{Tensor, TensorData};
use sd_pipeline::models::Files;
use sd_pipeline::{
    OpenOptions, PictureToChange, Pipeline, Record, Request, Resampling, Resize, RgbImage, device,
    resize,
};
use sd_tiny::micro::{Family, Layout, Micro};
use serde_json::Value;

use super::{finished, picture};

const FAMILIES: [(&str, Family); 2] = [
    ("instructpix2pix", Family::InstructPix2Pix),
    ("sdxlinstructpix2pix", Family::SdxlInstructPix2Pix),
];

/// The family's model, that of CosXL's kind where `cosxl` says so.
fn open(family: Family, cosxl: bool) -> Pipeline {
    let micro = Micro::new(family, Layout::Diffusers, 0).unwrap();
    let files = micro
        .iter()
        .map(|(name, bytes)| (name.to_string(), bytes.to_vec()));
    let mut files: BTreeMap<String, Vec<u8>> = files.collect();
    if cosxl {
        let index = files.get_mut("model_index.json").unwrap();
        let mut value: Value = serde_json::from_slice(index).unwrap();
        value["is_cosxl_edit"] = true.into();
        *index = value.to_string().into_bytes();
    }
    let options = OpenOptions::new(&device("flex").unwrap());
    Pipeline::from_files(&Files::memory(files), &options).unwrap()
}

fn number(case: &Value, key: &str) -> usize {
    case[key].as_u64().unwrap() as usize
}

fn request(case: &Value) -> Request {
    let (width, height) = (number(case, "width"), number(case, "height"));
    let seed = number(case, "seed") as u64;
    Request {
        negative_prompt: case["negative"].as_str().map(Into::into),
        guidance_scale: case["guidance"].as_f64().unwrap(),
        image_guidance_scale: case["picture_scale"].as_f64(),
        steps: number(case, "steps"),
        seed,
        count: number(case, "count"),
        picture: Some(picture(seed, width as u32, height as u32).into()),
        ..Request::new(case["prompt"].as_str().unwrap())
    }
}

#[test]
fn both_kinds_change_a_picture_as_diffusers_does() {
    let fixture = Fixture::open("pix2pix");
    let settings = fixture.settings();
    let mut compared = 0;
    for (name, family) in FAMILIES {
        let cases = settings.as_object().unwrap();
        let cases = cases
            .iter()
            .filter(|(key, _)| key.starts_with(&format!("{name}.")));
        for (key, case) in cases {
            let mut pipeline = open(family, case["cosxl"] == true);
            if let Some(scheduler) = case["scheduler"].as_str() {
                pipeline.set_scheduler(scheduler).unwrap();
            }
            let request = request(case);
            let run = finished(&pipeline, &request);
            let latents = format!("{key}.latents");
            fixture.assert_tensor(&latents, run.latents().clone(), 5e-4);
            let off = key.ends_with(".below");
            assert_eq!(
                run.warnings().len(),
                usize::from(off),
                "{:?}",
                run.warnings()
            );
            compared += 1;
        }
        assert!(settings[format!("{name}.two")]["count"] == 2);
    }
    assert_eq!(compared, 13);
}

#[test]
fn the_pictures_latent_is_not_scaled() {
    let fixture = Fixture::open("pix2pix");
    let settings = fixture.settings();
    for (name, family) in FAMILIES {
        let pipeline = open(family, false);
        let autoencoder = pipeline.autoencoder.get().unwrap();
        let pixels = |key: &str| {
            let image = request(&settings[key]).picture.unwrap().image;
            let (width, height) = image.dimensions();
            let bytes = image.as_raw().iter();
            let values: Vec<f32> = bytes.map(|v| f32::from(*v) / 127.5 - 1.0).collect();
            let data = TensorData::new(values, [1, height as usize, width as usize, 3]);
            let pixels = Tensor::<4>::from_data(data, &pipeline.denoiser.spec().device);
            pixels.permute([0, 3, 1, 2])
        };
        let key = format!("{name}.own");
        let found = autoencoder.encode_unscaled(pixels(&key)).unwrap();
        fixture.assert_tensor(&format!("{key}.beside"), found, 1e-4);
        if family == Family::SdxlInstructPix2Pix {
            let key = format!("{name}.cosxl");
            let found = autoencoder.encode(pixels(&key), None).unwrap();
            fixture.assert_tensor(&format!("{key}.beside"), found, 1e-4);
        }
    }
}

#[test]
fn a_folder_alone_says_steps_and_both_scales() {
    for ((_, family), scale) in FAMILIES.into_iter().zip([7.5, 5.0]) {
        let pipeline = open(family, false);
        let defaults = pipeline.defaults();
        let found = (
            defaults.steps,
            defaults.guidance_scale,
            defaults.image_guidance_scale,
        );
        assert_eq!(found, (100, scale, 1.5));
        let request = |image_guidance_scale| Request {
            steps: 1,
            picture: Some(picture(1, 64, 48).into()),
            image_guidance_scale,
            ..Request::for_pipeline(&pipeline, "a")
        };
        let draw = |scale| {
            let run = finished(&pipeline, &request(scale));
            run.latents().to_data()
        };
        assert_eq!(draw(None), draw(Some(1.5)));
        assert_ne!(draw(None), draw(Some(1.4)));
    }
}

#[test]
fn a_picture_of_any_size_comes_to_the_one_that_is_drawn() {
    let pipeline = open(Family::InstructPix2Pix, false);
    let image = picture(1, 71, 49);
    let draw = |picture: PictureToChange, width| {
        let request = Request {
            steps: 1,
            width,
            picture: Some(picture),
            ..Request::for_pipeline(&pipeline, "a")
        };
        finished(&pipeline, &request).latents().clone()
    };
    let own = draw(image.clone().into(), None);
    assert_eq!(own.dims(), [1, 4, 6, 8]);
    let by_hand = resize(&image, 64, 48, Resampling::Lanczos).unwrap();
    assert_eq!(draw(by_hand.into(), None).to_data(), own.to_data());
    let wide = draw(image.clone().into(), Some(96));
    let cut = PictureToChange {
        resize: Resize::Crop,
        ..image.into()
    };
    let cut = draw(cut, Some(96));
    assert_eq!((wide.dims(), cut.dims()), ([1, 4, 6, 12], [1, 4, 6, 12]));
    assert_ne!(wide.to_data(), cut.to_data());
}

#[test]
fn a_changed_picture_says_its_scale_and_is_drawn_again_with_its_picture_alone() {
    let pipeline = open(Family::InstructPix2Pix, false);
    let request = Request {
        steps: 1,
        picture: Some(picture(1, 64, 48).into()),
        image_guidance_scale: Some(1.25),
        ..Request::for_pipeline(&pipeline, "a")
    };
    let drawn = |request: &Request| finished(&pipeline, request).images().unwrap().remove(0);
    let first = drawn(&request);
    let record = first.record.clone();
    let text = record.parameters();
    assert!(
        text.contains("CFG scale: 7.5, Image CFG scale: 1.25, "),
        "{text}"
    );
    let read = Record::from_parameters(&text).unwrap();
    assert_eq!(read.image_guidance_scale, Some(1.25));
    assert!(
        record
            .request()
            .unwrap_err()
            .to_string()
            .contains("picture")
    );
    let again = record.request_from(picture(1, 64, 48)).unwrap();
    assert!(drawn(&again) == first);
    assert!(record.request_from(picture(2, 64, 48)).is_err());
}

#[test]
fn what_is_no_picture_to_change_is_refused_in_words() {
    let refused = |pipeline: &Pipeline, change: &dyn Fn(&mut Request)| {
        let mut request = Request {
            picture: Some(picture(1, 64, 48).into()),
            ..Request::for_pipeline(pipeline, "a")
        };
        change(&mut request);
        pipeline.start(&request).unwrap_err().to_string()
    };
    let edits = open(Family::InstructPix2Pix, false);
    let message = refused(&edits, &|r| r.picture = None);
    assert!(message.contains("picture is absent") && message.contains("the picture to change"));
    let message = refused(&edits, &|r| r.picture = Some(RgbImage::new(7, 48).into()));
    assert!(message.contains("picture is 7x48"), "{message}");
    let message = refused(&edits, &|r| r.width = Some(63));
    assert!(message.contains("width is 63"), "{message}");
    for scale in [f64::NAN, f64::INFINITY] {
        let message = refused(&edits, &|r| r.image_guidance_scale = Some(scale));
        assert!(message.contains("image_guidance_scale is"), "{message}");
    }
    let device = edits.denoiser.spec().device.clone();
    let concat = Tensor::<4>::zeros([1, 4, 6, 8], &device);
    let message = refused(&edits, &|r| r.concat = Some(concat.clone()));
    assert!(message.contains("concat"), "{message}");
    // Networks that see no picture, and one that sees a masked one.
    for family in [Family::Sd1, Family::Sd1Inpaint] {
        let other = open(family, false);
        let message = refused(&other, &|_| ());
        assert!(message.contains("takes no picture beside"), "{message}");
        let message = refused(&other, &|r| {
            r.picture = None;
            r.image_guidance_scale = Some(1.5);
        });
        assert!(message.contains("image_guidance_scale is 1.5"), "{message}");
    }
}
