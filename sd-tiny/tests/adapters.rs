//! LoRAs and textual inversions on micro models, against diffusers' own pipelines.
#![cfg(feature = "micro")]

mod control;

use std::path::Path;
use std::sync::Arc;

use sd_fixtures::Fixture;
use sd_pipeline::burn::tensor::Tensor;
use sd_pipeline::{
    Composed, Contrast, DenoiserPair, Error, Lora, OpenOptions, Pipeline, Request,
    TextualInversion, device,
};
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
    fixture.assert_tensor(case, latents(pipeline, prompt, 3), LATENTS);
}

fn latents(pipeline: &Pipeline, prompt: &str, steps: usize) -> Tensor<4> {
    let request = Request {
        guidance_scale: 1.5,
        steps,
        width: Some(72),
        height: Some(64),
        seed: 3,
        ..Request::for_pipeline(pipeline, prompt)
    };
    let mut run = pipeline.start(&request).unwrap();
    for step in &mut run {
        step.unwrap();
    }
    run.latents().clone()
}

/// Largest difference of `found` from `expected`, of the largest that there is.
fn difference(found: Tensor<4>, expected: Tensor<4>) -> f64 {
    let largest = expected.clone().abs().max().into_scalar::<f32>();
    let difference = (found - expected).abs().max().into_scalar::<f32>();
    f64::from(difference / largest)
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

/// Few steps with merged weights, as LCM-LoRA and Lightning's LoRA are drawn with.
#[test]
fn runs_of_few_steps_are_diffusers() {
    let fixture = Fixture::open("few_steps");
    for (name, family) in FAMILIES {
        let style = Lora::open(file(&format!("{name}_style.safetensors"))).unwrap();
        let mut drawn = open(family, vec![style], Vec::new()).unwrap();
        for (case, scheduler, guidance_scale) in [
            ("lcm", "LCM", 1.0),
            ("lcm_guided", "LCM", 1.5),
            ("lightning", "Euler Trailing", 0.0),
        ] {
            drawn.set_scheduler(scheduler).unwrap();
            let request = Request {
                guidance_scale,
                steps: 4,
                width: Some(72),
                height: Some(64),
                seed: 3,
                ..Request::for_pipeline(&drawn, "a photo of nothing")
            };
            let mut run = drawn.start(&request).unwrap();
            for step in &mut run {
                step.unwrap();
            }
            let case = format!("{name}/{case}");
            fixture.assert_tensor(&case, run.latents().clone(), LATENTS);
        }
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

/// A LoRA of rank 2 on every layer of `family`'s networks.
fn of_every_layer(family: Family, folder: &Path) -> Lora {
    let files = Micro::new(family, Layout::Diffusers, 0).unwrap().files();
    let mut tensors = Vec::new();
    for (network, stem) in [
        ("unet", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
        ("text_encoder_2", "model"),
    ] {
        let Ok(weights) = files.folder(network).weights(stem, None) else {
            continue;
        };
        let prefix = if network == "unet" { "" } else { "text_model." };
        for (name, shape) in weights.shapes() {
            let Some(module) = name.strip_suffix(".weight") else {
                continue;
            };
            if shape.len() < 2 || name.contains("embeddings") {
                continue;
            }
            let mut low = shape.to_vec();
            low[0] = 2;
            let mut high = vec![1; shape.len()];
            (high[0], high[1]) = (shape[0], 2);
            tensors.push((format!("{network}.{prefix}{module}.lora_A.weight"), low));
            tensors.push((format!("{network}.{prefix}{module}.lora_B.weight"), high));
        }
    }
    let mut state = 7u64;
    let mut bytes = |count: usize| -> Vec<u8> {
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.3
        };
        (0..count).flat_map(|_| next().to_le_bytes()).collect()
    };
    let tensors: Vec<_> = tensors
        .into_iter()
        .map(|(name, shape)| {
            let bytes = bytes(shape.iter().product());
            (name, shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let dtype = safetensors::Dtype::F32;
        let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes);
        (name, view.unwrap())
    });
    let path = folder.join("every.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap();
    Lora::open(path).unwrap()
}

#[test]
fn at_run_time_it_draws_what_merged_weights_draw() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = "a photo of nothing";
    for family in [Family::Sd1, Family::Sd2, Family::Sdxl] {
        let every = of_every_layer(family, folder.path());
        let plain = open(family, Vec::new(), Vec::new()).unwrap();
        let own = latents(&plain, prompt, 2);
        let mut blocks = every.clone().strength(0.6);
        blocks.blocks = "IN=0.5,IN04=-1,MID=2,OUT05=0,BASE=1.5".parse().unwrap();
        // Alone, two at once, with factors of blocks, and taken back.
        let half = every.clone().strength(-0.5);
        for loras in [
            vec![every.clone()],
            vec![every.clone(), half.clone()],
            vec![blocks],
            vec![every.clone().strength(0.0)],
        ] {
            let merged = plain.with_loras(&loras).unwrap();
            let beside = plain.with_loras_at_run_time(&loras).unwrap();
            let drawn = latents(&merged, prompt, 2);
            let found = difference(latents(&beside, prompt, 2), drawn.clone());
            assert!(found <= 1e-5, "{family:?} {loras:?}: {found:e}");
            let changes = loras[0].strength != 0.0;
            assert_eq!(difference(own.clone(), drawn) > 1e-3, changes);
            // The factors are held beside, those of one file once.
            let held = [&plain, &merged, &beside].map(|p| p.memory().loras.total());
            let once = plain.with_loras_at_run_time(&loras[..1]).unwrap();
            let once = once.memory().loras.total();
            assert!(once > 0);
            assert_eq!(held, [0, 0, once]);
            // No weight was read again.
            let networks = [&plain, &beside].map(|p| p.denoiser.get().unwrap());
            assert!(Arc::ptr_eq(&networks[0], &networks[1]));
        }
        assert_eq!(difference(latents(&plain, prompt, 2), own), 0.0);
    }
}

/// Merged before the weights are rounded, and at run time in f32 beside what is int8.
#[test]
fn beside_linear_layers_of_int8_a_lora_does_what_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = "a photo of nothing";
    for family in [Family::Sd1, Family::Sdxl] {
        let lora = [of_every_layer(family, folder.path())];
        let files = Micro::new(family, Layout::Diffusers, 0).unwrap().files();
        let options = OpenOptions {
            int8: true,
            ..OpenOptions::new(&device("flex").unwrap())
        };
        let int8 = Pipeline::from_files(&files, &options).unwrap();
        let exact = open(family, lora.to_vec(), Vec::new()).unwrap();
        let exact = latents(&exact, prompt, 2);
        // Random weights with a random LoRA make more of int8's rounding than those of a model do.
        let without = difference(latents(&int8, prompt, 2), exact.clone());
        for with in [int8.with_loras(&lora), int8.with_loras_at_run_time(&lora)] {
            let off = difference(latents(&with.unwrap(), prompt, 2), exact.clone());
            assert!(off < 0.06, "{family:?}: {off:e} off");
            assert!(
                without > 3.0 * off,
                "{family:?}: {without:e} without the LoRA"
            );
        }
    }
}

#[test]
fn scales_of_steps_and_blocks_are_diffusers() {
    let fixture = Fixture::open("lora_at_run_time");
    let settings = fixture.settings();
    let prompt = "a photo of nothing";
    for (name, family) in FAMILIES {
        let style = Lora::open(file(&format!("{name}_style.safetensors"))).unwrap();
        let plain = open(family, Vec::new(), Vec::new()).unwrap();
        let mut steps = style.clone();
        steps.steps = settings["steps"].as_str().unwrap().parse().unwrap();
        let drawn = plain.with_loras_at_run_time(&[steps.clone()]).unwrap();
        let names = [format!("{name}_style:1:0.25=0.25,0.75=1.5 at run time")];
        assert_eq!(drawn.adapters(), names);
        let case = format!("{name}/steps");
        fixture.assert_tensor(&case, latents(&drawn, prompt, 4), LATENTS);
        let error = plain.with_loras(&[steps]).unwrap_err().to_string();
        assert!(error.contains("the steps of a LoRA to merge"), "{error}");
        let mut blocks = style.clone();
        blocks.blocks = settings["blocks"].as_str().unwrap().parse().unwrap();
        let case = format!("{name}/blocks");
        let loras = [blocks];
        for drawn in [
            plain.with_loras_at_run_time(&loras).unwrap(),
            plain.with_loras(&loras).unwrap(),
        ] {
            fixture.assert_tensor(&case, latents(&drawn, prompt, 4), LATENTS);
        }
    }
    // SDXL has no twelfth block.
    let plain = open(Family::Sdxl, Vec::new(), Vec::new()).unwrap();
    let mut lost = Lora::open(file("sdxl_style.safetensors")).unwrap();
    lost.blocks = "OUT11=0".parse().unwrap();
    let loras = [lost];
    for error in [
        plain.with_loras(&loras).unwrap_err(),
        plain.with_loras_at_run_time(&loras).unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(
            error.contains("no block OUT11") && error.contains("OUT08"),
            "{error}"
        );
    }
}

/// A network in another's place does not take what is not of its layers.
#[test]
fn what_is_beside_another_network_is_an_error() {
    let style = Lora::open(file("sd1_style.safetensors")).unwrap();
    let mut drawn = open(Family::Sd1, Vec::new(), Vec::new())
        .unwrap()
        .with_loras_at_run_time(&[style])
        .unwrap();
    drawn.denoiser = open(Family::TinySd, Vec::new(), Vec::new())
        .unwrap()
        .denoiser;
    let error = drawn
        .start(&Request::for_pipeline(&drawn, ""))
        .unwrap_err()
        .to_string();
    assert!(error.contains("a layer to change"), "{error}");
}

/// Beside autoguidance's second network there is nothing, as merging leaves it alone too.
#[test]
fn a_second_network_stays_what_it_is() {
    let style = [Lora::open(file("sd1_style.safetensors")).unwrap()];
    let plain = open(Family::Sd1, Vec::new(), Vec::new()).unwrap();
    let weak = open(Family::TinySd, Vec::new(), Vec::new()).unwrap();
    let autoguided = |mut pipeline: Pipeline| {
        let [first, second] = [&pipeline, &weak].map(|p| p.denoiser.get().unwrap());
        pipeline.denoiser = DenoiserPair::new(first, second).unwrap().into();
        let guidance = Composed {
            contrasts: vec![Contrast::second_network(1.5)],
            ..Composed::classifier_free(1.5)
        };
        let request = Request {
            guidance: Some(Arc::new(guidance)),
            steps: 2,
            width: Some(64),
            height: Some(64),
            ..Request::for_pipeline(&pipeline, "a photo of nothing")
        };
        let mut run = pipeline.start(&request).unwrap();
        for step in &mut run {
            step.unwrap();
        }
        run.latents().clone()
    };
    let merged = autoguided(plain.with_loras(&style).unwrap());
    let beside = autoguided(plain.with_loras_at_run_time(&style).unwrap());
    // Both contrasts enlarge the rounding: 3e-5 of what the LoRA changes by 0.3.
    assert!(difference(beside, merged.clone()) <= 1e-4);
    assert!(difference(autoguided(plain), merged) > 1e-3);
}

/// A change that is no sum with the weights, or of a layer that has no product, can only be merged.
#[test]
fn what_only_merging_can_do_is_an_error_at_run_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changes.safetensors");
    let plain = open(Family::Sd1, Vec::new(), Vec::new()).unwrap();
    let conv = "unet.conv_in.lora";
    let text = "lora_te_text_model";
    for (tensors, reason) in [
        (
            vec![
                (format!("{conv}_A.weight"), vec![1, 4, 3, 3]),
                (format!("{conv}_B.weight"), vec![4, 1, 1, 1]),
                (format!("{conv}_magnitude_vector"), vec![4]),
            ],
            "turns or scales the weight",
        ),
        (
            vec![("lora_unet_conv_norm_out.w_norm".into(), vec![4])],
            "a layer that nothing can act beside",
        ),
        (
            vec![(
                format!("{text}_embeddings_token_embedding.diff"),
                token_table(),
            )],
            "a table",
        ),
    ] {
        let tensors: Vec<_> = tensors
            .into_iter()
            .map(|(name, shape): (String, Vec<usize>)| {
                let bytes = 1f32.to_le_bytes().repeat(shape.iter().product());
                (name, shape, bytes)
            })
            .collect();
        let views = tensors.iter().map(|(name, shape, bytes)| {
            let dtype = safetensors::Dtype::F32;
            let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes);
            (name, view.unwrap())
        });
        safetensors::serialize_to_file(views, None, &path).unwrap();
        let loras = [Lora::open(&path).unwrap()];
        plain.with_loras(&loras).unwrap();
        let error = plain.with_loras_at_run_time(&loras).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(reason) && error.contains("merge it"),
            "{error}"
        );
    }
}

/// Shape of the micro model's table of tokens.
fn token_table() -> Vec<usize> {
    let files = Micro::new(Family::Sd1, Layout::Diffusers, 0)
        .unwrap()
        .files();
    let weights = files.folder("text_encoder").weights("model", None).unwrap();
    let mut tables = weights.shapes();
    let table = tables.find(|(name, _)| name.ends_with("token_embedding.weight"));
    table.unwrap().1.to_vec()
}
