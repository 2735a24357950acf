//! LoRAs and textual inversions on micro models, against diffusers' own pipelines.
#![cfg(feature = "micro")]

mod control;

use std::sync::Arc;

use sd_fixtures::Fixture;
use sd_pipeline::{Error, Lora, OpenOptions, Pipeline, Request, TextualInversion, device};
use sd_tiny::micro::{Family, Layout, Micro};

/// Largest difference of the latents, whose values go up to a few dozens.
const LATENTS: f64 = 5e-4;
const FAMILIES: [(&str, Family); 2] = [("sd1", Family::Sd1), ("sdxl", Family::Sdxl)];

fn open(family: Family, loras: Vec<Lora>, words: Vec<TextualInversion>) -> Result<Pipeline, Error> {
    let files = Micro::new(family, Layout::Diffusers, 0).unwrap().files();
    let options = OpenOptions {
        loras,
        words,
        ..OpenOptions::new(&device("flex").unwrap())
    };
    Pipeline::from_files(&files, &options)
}

fn file(name: &str) -> std::path::PathBuf {
    sd_fixtures::path(&format!("adapters/{name}"))
}

fn check(fixture: &Fixture, case: &str, pipeline: &Pipeline, prompt: &str) {
    let request = Request {
        guidance_scale: 1.5,
        steps: 3,
        width: Some(72),
        height: Some(64),
        seed: 3,
        ..Request::for_pipeline(pipeline, prompt)
    };
    let mut run = pipeline.start(&request).unwrap();
    for step in &mut run {
        step.unwrap();
    }
    fixture.assert_tensor(case, run.latents().clone(), LATENTS);
}

#[test]
fn runs_with_a_lora_are_diffusers() {
    let fixture = Fixture::open("adapters");
    let prompt = "a photo of nothing";
    for (name, family) in FAMILIES {
        let style = Lora::open(file(&format!("{name}_style.safetensors"))).unwrap();
        let plain = open(family, Vec::new(), Vec::new()).unwrap();
        let report = &plain.match_loras(std::slice::from_ref(&style)).unwrap()[0];
        assert!(report.is_complete(), "{report}");
        check(&fixture, &format!("{name}/plain"), &plain, prompt);
        // As it is opened, and swapped afterwards; the pipeline it came from stays what it was.
        let opened = open(family, vec![style.clone()], Vec::new()).unwrap();
        check(&fixture, &format!("{name}/lora"), &opened, prompt);
        let weaker = plain.with_loras(&[style.strength(0.6)]).unwrap();
        check(&fixture, &format!("{name}/lora_weaker"), &weaker, prompt);
        check(&fixture, &format!("{name}/plain"), &plain, prompt);
        assert!(plain.adapters().is_empty());
        assert_eq!(weaker.adapters(), [format!("{name}_style:0.6")]);
    }
}

/// What a LoRA does not change is shared, and what it changes is not.
#[test]
fn only_what_changes_is_read_again() {
    let bytes = std::fs::read(file("sd1_style.safetensors")).unwrap();
    let style = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let of_unet = style.iter().filter(|(name, _)| name.starts_with("unet."));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("unet_alone.safetensors");
    safetensors::serialize_to_file(of_unet, None, &path).unwrap();
    let plain = open(Family::Sd1, Vec::new(), Vec::new()).unwrap();
    let changed = plain.with_loras(&[Lora::open(&path).unwrap()]).unwrap();
    let texts = [&plain, &changed].map(|p| p.text_encoder.get().unwrap());
    assert!(Arc::ptr_eq(&texts[0], &texts[1]));
    let networks = [&plain, &changed].map(|p| p.denoiser.get().unwrap());
    assert!(!Arc::ptr_eq(&networks[0], &networks[1]));
}

#[test]
fn a_lora_of_another_family_is_an_error_that_names_both() {
    let style = Lora::open(file("sdxl_style.safetensors")).unwrap();
    for lenient in [false, true] {
        let lora = Lora {
            lenient,
            ..style.clone()
        };
        match open(Family::Sd1, vec![lora], Vec::new()) {
            Err(Error::Adapter { report, .. }) => {
                assert!(!report.is_complete());
                assert!(report.matched + report.unmatched.len() + report.misshapen.len() > 10);
            }
            // What happens to fit is drawn with only by who asks for it.
            Ok(_) => assert!(lenient),
            Err(other) => panic!("{other}"),
        }
    }
    let nan = Lora::open(file("sd1_style.safetensors"))
        .unwrap()
        .strength(f32::NAN);
    let error = open(Family::Sd1, vec![nan], Vec::new()).unwrap_err();
    assert!(error.to_string().contains("lora strength"), "{error}");
}

#[test]
fn a_word_is_what_diffusers_makes_of_it() {
    let fixture = Fixture::open("adapters");
    let settings = fixture.settings();
    for (name, family) in FAMILIES {
        let settings = &settings[name];
        let word = TextualInversion::open(file(settings["word"].as_str().unwrap())).unwrap();
        assert_eq!(word.tokens(), 2);
        let taught = open(family, Vec::new(), vec![word.clone()]).unwrap();
        let prompt = settings["prompt"].as_str().unwrap();
        check(&fixture, &format!("{name}/word"), &taught, prompt);
        // Twice the same word, and one of another model.
        let error = taught
            .with_words(std::slice::from_ref(&word))
            .unwrap_err()
            .to_string();
        assert!(error.contains("already"), "{error}");
    }
    let other = TextualInversion::open(file("sdxl-sketchy.safetensors")).unwrap();
    let error = open(Family::Sd1, Vec::new(), vec![other])
        .unwrap_err()
        .to_string();
    assert!(error.contains("wide"), "{error}");
}
