//! What a network says it holds is what the process shows. One test, for it measures the process.
#![cfg(target_os = "linux")]

use std::collections::HashMap;
use std::fs;

use burn::tensor::Device;
use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sd_models::memory::{PeakMemory, resident_bytes};
use sd_models::{ClipTextConfig, ClipTextModel, Files, LoadOptions, WeightStorage};
use serde_json::json;

/// A text encoder of 62 million numbers in f16, half of them in its table of tokens.
fn write_model(files: &Files) {
    let (width, inner, layers, vocabulary) = (1024, 4096, 2, 30_000);
    let config = json!({
        "vocab_size": vocabulary, "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": 16, "hidden_act": "gelu",
        "max_position_embeddings": 77,
    });
    fs::write(files.path("config.json"), config.to_string()).unwrap();
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        (
            "embeddings.token_embedding.weight".into(),
            vec![vocabulary, width],
        ),
        (
            "embeddings.position_embedding.weight".into(),
            vec![77, width],
        ),
        ("final_layer_norm.weight".into(), vec![width]),
        ("final_layer_norm.bias".into(), vec![width]),
    ];
    for i in 0..layers {
        let mut layer = |name: &str, rows: usize, columns: Option<usize>| {
            let name = format!("encoder.layers.{i}.{name}");
            let shape = [rows].into_iter().chain(columns).collect();
            shapes.push((format!("{name}.weight"), shape));
            shapes.push((format!("{name}.bias"), vec![rows]));
        };
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            layer(&format!("self_attn.{name}"), width, Some(width));
        }
        layer("layer_norm1", width, None);
        layer("layer_norm2", width, None);
        layer("mlp.fc1", inner, Some(width));
        layer("mlp.fc2", width, Some(inner));
    }
    let number = f16::from_f32(0.01).to_le_bytes();
    let bytes = number.repeat(vocabulary * width);
    let views = shapes.iter().map(|(name, shape)| {
        let size = 2 * shape.iter().product::<usize>();
        let view = TensorView::new(Dtype::F16, shape.clone(), &bytes[..size]);
        (name.as_str(), view.unwrap())
    });
    let path = files.path("model.safetensors");
    safetensors::serialize_to_file(views, None::<HashMap<String, String>>, &path).unwrap();
}

#[test]
fn weights_take_what_they_say_and_loading_little_more() {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::directory(folder.path());
    write_model(&files);
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    for (memory, packed) in [(WeightStorage::AsStored, 50.0), (WeightStorage::F32, 100.0)] {
        let before = resident_bytes().unwrap();
        let watch = PeakMemory::start();
        let config = ClipTextConfig::read(&files).unwrap();
        let weights = files.weights("model", None).unwrap();
        let options = LoadOptions {
            weight_storage: memory,
            ..LoadOptions::new(&Device::flex())
        };
        let (model, bytes) = ClipTextModel::load(config, &weights, &options).unwrap();
        let said = megabytes(bytes.total());
        assert!((megabytes(bytes.packed) - packed).abs() < 3.0, "{bytes:?}");
        let taken = megabytes(resident_bytes().unwrap() - before);
        assert!(
            (taken / said - 1.0).abs() < 0.15,
            "said {said} MB, took {taken} MB"
        );
        // The table of tokens is the one tensor that is held in both precisions for a moment.
        let peak = megabytes(watch.peak().unwrap() - before);
        assert!(peak < 1.15 * said + 62.0, "said {said} MB, peak {peak} MB");

        model.forward(&[vec![1; 77]]).unwrap();
        drop(model);
        let left = megabytes(resident_bytes().unwrap().saturating_sub(before));
        assert!(left < 0.15 * said, "{left} MB left of {said} MB");
    }
}
