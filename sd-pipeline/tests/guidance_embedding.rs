//! A network that is told the guidance scale (a latent consistency model) draws what diffusers
//! draws: the prompt alone is evaluated, whatever the scale.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use sd_fixtures::Fixture;
use sd_pipeline::models::Files;
use sd_pipeline::{OpenOptions, PictureStart, Pipeline, Request, RgbImage, Start, device};
use serde_json::{Value, json};

/// The embedded model with a layer for the guidance scale.
fn files(fixture: &Fixture) -> BTreeMap<String, Vec<u8>> {
    let tiny = sd_tiny::FILES.iter();
    let tiny = tiny.map(|(name, bytes)| (name.to_string(), bytes.to_vec()));
    let mut files: BTreeMap<String, Vec<u8>> = tiny.collect();
    let mut config: Value = serde_json::from_slice(&files["unet/config.json"]).unwrap();
    config["time_cond_proj_dim"] = fixture.settings()["time_cond_proj_dim"].clone();
    files.insert("unet/config.json".into(), config.to_string().into_bytes());

    let weights = &files["unet/diffusion_pytorch_model.safetensors"];
    let weights = SafeTensors::deserialize(weights).unwrap();
    let added = fixture.f32("cond_proj.weight");
    let added: Vec<u8> = added.iter().flat_map(|v| v.to_le_bytes()).collect();
    let shape = fixture.shape("cond_proj.weight");
    let added = TensorView::new(Dtype::F32, shape, &added).unwrap();
    let name = "time_embedding.cond_proj.weight".to_string();
    let tensors = weights.tensors().into_iter().chain([(name, added)]);
    let file = safetensors::serialize(tensors, None).unwrap();
    files.insert("unet/diffusion_pytorch_model.safetensors".into(), file);
    files
}

fn request(case: &Value) -> Request {
    let number = |key: &str| case[key].as_u64().map(|n| n as usize);
    Request {
        negative_prompt: case["negative"].as_str().map(Into::into),
        guidance_scale: case["guidance"].as_f64().unwrap(),
        steps: number("steps").unwrap(),
        seed: case["seed"].as_u64().unwrap(),
        width: number("width"),
        height: number("height"),
        count: number("count").unwrap_or(1),
        ..Request::new(case["prompt"].as_str().unwrap())
    }
}

/// LCM's own pipeline takes all steps of a picture's run, whatever the strength.
#[test]
fn latents_from_a_picture_equal_those_of_its_own_pipeline() {
    let fixture = Fixture::open("guidance_embedding");
    let mut files = files(&fixture);
    for (file, class) in [
        ("model_index.json", "LatentConsistencyModelPipeline"),
        ("scheduler/scheduler_config.json", "LCMScheduler"),
    ] {
        let mut settings: Value = serde_json::from_slice(&files[file]).unwrap();
        settings["_class_name"] = class.into();
        if let Some(scheduler) = settings.get_mut("scheduler") {
            scheduler[1] = "LCMScheduler".into();
        }
        files.insert(file.into(), settings.to_string().into_bytes());
    }
    let options = OpenOptions::new(&device("flex").unwrap());
    let pipeline = Pipeline::from_files(&Files::memory(files), &options).unwrap();
    let bytes = fixture.values("picture").iter().map(|v| *v as u8).collect();
    let picture = RgbImage::from_raw(71, 45, bytes).unwrap();
    let settings = fixture.settings();
    let cases = settings["pictures"].as_object().unwrap();
    assert_eq!(cases.len(), 5);
    for (name, case) in cases {
        let strength = case["strength"].as_f64().unwrap();
        let request = Request {
            start: Start::Picture(PictureStart::new(picture.clone(), strength)),
            ..request(case)
        };
        let mut run = pipeline.start(&request).unwrap();
        assert_eq!(run.steps() as u64, case["steps"]);
        for step in &mut run {
            step.unwrap();
        }
        fixture.assert_tensor(&format!("{name}.latents"), run.latents().clone(), 1e-3);
    }
    let few = Request {
        start: Start::Picture(PictureStart::new(picture, 0.05)),
        steps: 4,
        ..Request::new("a ring")
    };
    let error = pipeline.start(&few).unwrap_err().to_string();
    assert!(error.contains("the strength leaves 2"), "{error}");
}

#[test]
fn latents_equal_diffusers_at_every_scale() {
    let fixture = Fixture::open("guidance_embedding");
    let settings = fixture.settings();
    let options = OpenOptions::new(&device("flex").unwrap());
    let mut pipeline = Pipeline::from_files(&Files::memory(files(&fixture)), &options).unwrap();
    assert!(pipeline.denoiser.spec().embeds_guidance);
    let cases = settings["cases"].as_object().unwrap();
    assert_eq!(cases.len(), 10);
    for (name, case) in cases {
        let scheduler = case["scheduler"].as_str().unwrap();
        pipeline.set_scheduler(scheduler).unwrap();
        let mut run = pipeline.start(&request(case)).unwrap();
        let warned = !run.warnings().is_empty();
        assert_eq!(warned, case["negative"] != json!(null), "{name}");
        for step in &mut run {
            assert_eq!(step.unwrap().evaluations, 1);
        }
        // diffusers embeds the scale in f32, 3e-4 from f64, and each step goes on from there.
        fixture.assert_tensor(&format!("{name}.latents"), run.latents().clone(), 1e-3);
    }
}
