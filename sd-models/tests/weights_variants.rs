//! Variants of the weights: which can be asked for, and what is said of those that are there.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, FloatDType};
use sd_models::testing::Linear;
use sd_models::{Error, Files, Weights};
use serde_json::json;
use tempfile::TempDir;

const STEM: &str = "diffusion_pytorch_model";

/// A file with the weight and the bias of a `Linear` of one feature, or one of them.
fn file(bias: f32, names: &[&str]) -> Vec<u8> {
    let (mut entries, mut data) = (serde_json::Map::new(), Vec::new());
    for name in names {
        let shape = if *name == "weight" {
            json!([1, 1])
        } else {
            json!([1])
        };
        let offsets = [data.len(), data.len() + 4];
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": offsets});
        entries.insert((*name).into(), entry);
        data.extend(bias.to_le_bytes());
    }
    let header = serde_json::Value::from(entries).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.into_bytes());
    bytes.extend(data);
    bytes
}

/// A folder of whole files, each with a bias of its own: 1, 2 …
fn folder(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bias) in names.iter().zip(1..) {
        let bytes = file(bias as f32, &["weight", "bias"]);
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// Two shards by the names given, and their index.
fn shards(folder: &Path, shards: [&str; 2], index: &str) {
    for (shard, tensor) in shards.iter().zip(["weight", "bias"]) {
        fs::write(folder.join(shard), file(5.0, &[tensor])).unwrap();
    }
    let map = json!({"weight_map": {"weight": shards[0], "bias": shards[1]}});
    fs::write(folder.join(index), map.to_string()).unwrap();
}

fn open(folder: &Path, variant: Option<&str>) -> Result<Weights, Error> {
    Files::directory(folder).weights(STEM, variant)
}

fn bias(weights: &Weights) -> f32 {
    let linear = Linear::new(1, 1, true, &Device::flex());
    let linear = weights.load_into(linear, FloatDType::F32).unwrap();
    let bias = linear.bias.unwrap().val();
    bias.try_into_vec_as::<f32>().unwrap()[0]
}

#[test]
fn a_variant_that_is_asked_for_is_the_one_that_opens() {
    let names = ["bf16", "fp16", "non_ema"].map(|v| format!("{STEM}.{v}.safetensors"));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let folder = folder(&names);
    for (variant, value) in [("bf16", 1.0), ("fp16", 2.0), ("non_ema", 3.0)] {
        let weights = open(folder.path(), Some(variant)).unwrap();
        assert_eq!(bias(&weights), value, "{variant}");
    }
    assert_eq!(bias(&open(folder.path(), None).unwrap()), 2.0);
    let variants = Files::directory(folder.path()).variants();
    assert_eq!(variants, ["bf16", "fp16", "non_ema"]);
}

#[test]
fn without_it_the_variants_that_are_there_are_named() {
    let names = ["bf16", "non_ema"].map(|v| format!("{STEM}.{v}.safetensors"));
    let others = ["model.fp16.safetensors", "pytorch_model.bin"];
    let names: Vec<&str> = names.iter().map(String::as_str).chain(others).collect();
    let folder = folder(&names);
    let error = open(folder.path(), None).unwrap_err();
    let message = error.to_string();
    let Error::NoWeights {
        tried,
        variants,
        others,
        ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(variants, ["bf16", "non_ema"]);
    assert_eq!(others, ["model.fp16.safetensors", "pytorch_model.bin"]);
    assert_eq!(tried.len(), 4);
    for name in tried.iter().chain(&variants).chain(&others) {
        assert!(message.contains(name), "{message}");
    }
    let error = open(folder.path(), Some("fp16")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("can be asked for: bf16, non_ema"),
        "{error}"
    );
}

#[test]
fn shards_of_a_variant_open_by_every_name_they_have_been_given() {
    let today = ["01", "02"].map(|n| format!("{STEM}.fp16-000{n}-of-00002.safetensors"));
    let earlier = ["01", "02"].map(|n| format!("{STEM}-000{n}-of-00002.fp16.safetensors"));
    for names in [today, earlier] {
        let names = [&*names[0], &*names[1]];
        for index in [
            "safetensors.index.fp16.json",
            "safetensors.fp16.index.json",
            "fp16.safetensors.index.json",
        ] {
            let folder = tempfile::tempdir().unwrap();
            shards(folder.path(), names, &format!("{STEM}.{index}"));
            for variant in [None, Some("fp16")] {
                let weights = open(folder.path(), variant).unwrap();
                assert_eq!(bias(&weights), 5.0, "{names:?} by {index}");
            }
            assert_eq!(Files::directory(folder.path()).variants(), ["fp16"]);
        }
        // Without its index nobody knows whether the shards are all of one model.
        let folder = folder(&names);
        let error = open(folder.path(), None).unwrap_err();
        let Error::NoWeights {
            variants, others, ..
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!((variants.len(), others.len()), (0, 2));
    }
    let folder = tempfile::tempdir().unwrap();
    let one = format!("{STEM}.fp16-00001-of-00001.safetensors");
    fs::write(folder.path().join(&one), file(7.0, &["weight", "bias"])).unwrap();
    let map = json!({"weight_map": {"weight": one, "bias": one}}).to_string();
    let index = format!("{STEM}.fp16.safetensors.index.json");
    fs::write(folder.path().join(index), map).unwrap();
    assert_eq!(bias(&open(folder.path(), None).unwrap()), 7.0);
}

#[test]
fn a_variants_name_leads_nowhere_else() {
    let folder = folder(&["diffusion_pytorch_model.safetensors"]);
    let inside = folder.path().join("unet");
    fs::create_dir(&inside).unwrap();
    for variant in ["", "..", "/../../x", "a/b", "\0"] {
        let error = open(&inside, Some(variant)).unwrap_err();
        assert!(matches!(error, Error::NoWeights { .. }), "{error:?}");
    }
}

#[test]
fn checkpoints_are_opened_where_nothing_else_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = sd_fixtures::path("checkpoints/zip.ckpt");
    let put = |name: &str| fs::copy(&checkpoint, folder.path().join(name)).unwrap();
    let files = Files::directory(folder.path());
    let opened = |stem: &str, variant| {
        let path = files.weights(stem, variant)?.path().to_path_buf();
        Ok::<_, Error>(path.file_name().unwrap().to_str().unwrap().to_string())
    };
    assert!(opened(STEM, None).is_err());
    put("diffusion_pytorch_model.fp16.bin");
    assert_eq!(
        opened(STEM, None).unwrap(),
        "diffusion_pytorch_model.fp16.bin"
    );
    put("diffusion_pytorch_model.bin");
    assert_eq!(opened(STEM, None).unwrap(), "diffusion_pytorch_model.bin");
    assert_eq!(
        opened(STEM, Some("fp16")).unwrap(),
        "diffusion_pytorch_model.fp16.bin"
    );
    assert!(opened(STEM, Some("bf16")).is_err());
    assert_eq!(files.variants(), ["fp16"]);
    put("pytorch_model.bin");
    assert_eq!(opened("model", None).unwrap(), "pytorch_model.bin");
    let safe = folder.path().join("model.fp16.safetensors");
    fs::write(safe, file(1.0, &["bias"])).unwrap();
    assert_eq!(opened("model", None).unwrap(), "model.fp16.safetensors");
}
