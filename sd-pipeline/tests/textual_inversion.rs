//! Whole generations with a word of several vectors equal diffusers'.

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use sd_fixtures::Fixture;
use sd_pipeline::burn::tensor::{DType, TensorData};
use sd_pipeline::models::Files;
use sd_pipeline::{OpenOptions, Pipeline, Request, device};
use serde_json::Value;

const TOKENIZER: &str = "tokenizer/tokenizer.json";
const CONFIG: &str = "text_encoder/config.json";
const WEIGHTS: &str = "text_encoder/model.safetensors";

fn read(path: &str) -> Vec<u8> {
    let (folder, name) = path.split_once('/').unwrap_or(("", path));
    let files = sd_tiny::files().folder(folder);
    files.read(name).unwrap().to_vec()
}

/// The JSON file `path` after `change`.
fn changed(path: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut json = serde_json::from_slice(&read(path)).unwrap();
    change(&mut json);
    json.to_string().into_bytes()
}

/// The text encoder's weights with `vectors` behind those of its vocabulary.
fn weights(vectors: &[f32]) -> Vec<u8> {
    let bytes = read(WEIGHTS);
    let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let is_embedding = |name: &str| name.ends_with("token_embedding.weight");
    let place = tensors.iter_mut().find(|(name, _)| is_embedding(name));
    let (_, embedding) = place.unwrap();
    let [rows, width] = embedding.shape()[..] else {
        panic!("an embedding has two dimensions");
    };
    assert_eq!(embedding.dtype(), Dtype::F16);
    let stored = embedding.data().to_vec();
    let stored = TensorData::from_bytes_vec(stored, [rows, width], DType::F16);
    let stored = stored.convert::<f32>().try_into_vec::<f32>().unwrap();
    let all = stored.iter().chain(vectors);
    let all: Vec<u8> = all.flat_map(|v| v.to_le_bytes()).collect();
    let shape = vec![rows + vectors.len() / width, width];
    *embedding = TensorView::new(Dtype::F32, shape, &all).unwrap();
    safetensors::serialize(tensors, None).unwrap()
}

/// The embedded model with the fixture's words.
fn files(fixture: &Fixture) -> Files {
    let settings = fixture.settings();
    let plain = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ];
    let plain = plain.map(|path| (path, read(path)));
    let tokenizer = changed(TOKENIZER, |json| {
        json["added_tokens"] = settings["added_tokens"].clone();
    });
    let words = fixture.shape("vectors")[0] as u64;
    let config = changed(CONFIG, |json| {
        json["vocab_size"] = (json["vocab_size"].as_u64().unwrap() + words).into();
    });
    let weights = weights(&fixture.f32("vectors"));
    let spelled = [(TOKENIZER, tokenizer), (CONFIG, config), (WEIGHTS, weights)];
    Files::memory(plain.into_iter().chain(spelled))
}

#[test]
fn latents_equal_diffusers() {
    let fixture = Fixture::open("inversion");
    let options = OpenOptions::new(&device("flex").unwrap());
    let pipeline = Pipeline::from_files(&files(&fixture), &options).unwrap();
    let settings = fixture.settings();
    let cases = settings["cases"].as_object().unwrap();
    assert_eq!(cases.len(), 3);
    for (name, case) in cases {
        let number = |key: &str| case[key].as_u64().unwrap() as usize;
        let request = Request {
            negative_prompt: case["negative"].as_str().map(Into::into),
            guidance_scale: case["guidance"].as_f64().unwrap(),
            steps: number("steps"),
            seed: case["seed"].as_u64().unwrap(),
            width: Some(number("width")),
            height: Some(number("height")),
            ..Request::new(case["prompt"].as_str().unwrap())
        };
        let mut run = pipeline.start(&request).unwrap();
        for step in &mut run {
            step.unwrap();
        }
        fixture.assert_tensor(&format!("{name}.latents"), run.latents().clone(), 1e-3);
    }
}
