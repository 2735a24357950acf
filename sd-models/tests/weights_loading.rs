//! Which files of a folder are the weights, and how they get into a module.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, Device, FloatDType};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sd_models::testing::{GroupNorm, Linear};
use sd_models::{Error, Files, Weights};
use serde_json::json;

/// Exact in every number type.
const VALUES: [f32; 6] = [0.5, -1.25, 3.0, 1024.0, 0.0, -0.125];

/// Tensors of f32 by name.
type Tensors<'a> = &'a [(&'a str, &'a [usize], &'a [f32])];

const LINEAR: Tensors<'static> = &[("weight", &[2, 3], &VALUES), ("bias", &[2], &[7.0, -8.0])];

fn serialize(tensors: Tensors<'_>) -> Vec<u8> {
    let tensors = tensors.iter().map(|(name, shape, values)| {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        (*name, shape.to_vec(), bytes)
    });
    let tensors: Vec<_> = tensors.collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (*name, view)
    });
    safetensors::serialize(views, None::<HashMap<String, String>>).unwrap()
}

fn write(folder: &Path, name: &str, tensors: Tensors<'_>) {
    fs::write(folder.join(name), serialize(tensors)).unwrap();
}

fn linear() -> Linear {
    Linear::new(3, 2, true, &Device::flex())
}

fn values(linear: &Linear) -> (Vec<f32>, Vec<f32>) {
    let weight = linear.weight.val().try_into_vec_as::<f32>().unwrap();
    let bias = linear.bias.as_ref().unwrap().val();
    (weight, bias.try_into_vec_as::<f32>().unwrap())
}

fn load(files: &Files, variant: Option<&str>) -> Result<Linear, Error> {
    files
        .weights("model", variant)?
        .load_into(linear(), FloatDType::F32)
}

#[test]
fn values_arrive_in_the_precision_asked_for_whatever_the_files() {
    let f16 = |v: &f32| half::f16::from_f32(*v).to_le_bytes().to_vec();
    let bf16 = |v: &f32| half::bf16::from_f32(*v).to_le_bytes().to_vec();
    let f32 = |v: &f32| v.to_le_bytes().to_vec();
    let f64 = |v: &f32| f64::from(*v).to_le_bytes().to_vec();
    type Encode<'a> = &'a dyn Fn(&f32) -> Vec<u8>;
    let encodings: [(Dtype, DType, Encode<'_>); 4] = [
        (Dtype::F16, DType::F16, &f16),
        (Dtype::BF16, DType::BF16, &bf16),
        (Dtype::F32, DType::F32, &f32),
        (Dtype::F64, DType::F64, &f64),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for (stored, burn, encode) in encodings {
        let weight: Vec<u8> = VALUES.iter().flat_map(encode).collect();
        let bias: Vec<u8> = [7.0, -8.0].iter().flat_map(encode).collect();
        let views = [
            (
                "weight",
                TensorView::new(stored, vec![2, 3], &weight).unwrap(),
            ),
            ("bias", TensorView::new(stored, vec![2], &bias).unwrap()),
        ];
        let bytes = safetensors::serialize(views, None::<HashMap<String, String>>).unwrap();
        fs::write(&path, &bytes).unwrap();
        let disk = Weights::open(&path).unwrap();
        let memory = Weights::from_bytes("model", bytes).unwrap();
        for weights in [disk, memory] {
            assert_eq!(weights.dtype("weight"), Some(burn));
            for asked in [FloatDType::F32, FloatDType::F16, FloatDType::BF16] {
                let linear = weights.load_into(linear(), asked).unwrap();
                assert_eq!(linear.weight.val().dtype(), asked.into());
                let (weight, bias) = values(&linear);
                assert_eq!((&weight[..], &bias[..]), (&VALUES[..], &[7.0, -8.0][..]));
            }
        }
    }
}

#[test]
fn a_tensor_missing_left_over_or_misshapen_is_named() {
    let tensors: Tensors<'_> = &[("weight", &[3, 2], &VALUES), ("running_mean", &[1], &[0.0])];
    let weights = Weights::from_bytes("unet", serialize(tensors)).unwrap();
    let error = weights.load_into(linear(), FloatDType::F32).unwrap_err();
    let message = "unet: the tensors are not this model's (1 missing: bias; 1 unused: \
                   running_mean; 1 misshapen: weight is [3, 2] and should be [2, 3])";
    assert_eq!(error.to_string(), message);
    let Error::Tensors { mismatch, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(mismatch.missing, ["bias"]);
    assert_eq!(mismatch.misshapen[0].found, [3, 2]);
}

#[test]
fn of_many_wrong_tensors_ten_are_named_and_all_counted() {
    let names: Vec<String> = (0..25).map(|i| format!("layer.{i:02}")).collect();
    let mut tensors: Vec<(&str, &[usize], &[f32])> = LINEAR.to_vec();
    tensors.extend(names.iter().map(|n| (n.as_str(), &[1][..], &[0.0][..])));
    let weights = Weights::from_bytes("m", serialize(&tensors)).unwrap();
    let error = weights
        .load_into(linear(), FloatDType::F32)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("25 unused: layer.00, ") && error.contains("layer.09, …"),
        "{error}"
    );
    assert!(!error.contains("layer.10"), "{error}");
}

#[test]
fn the_plain_file_comes_before_the_fp16_one() {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::directory(folder.path());
    let other: Tensors<'_> = &[("weight", &[2, 3], &VALUES), ("bias", &[2], &[1.0, 2.0])];

    let error = load(&files, None).unwrap_err().to_string();
    for name in [
        "model.safetensors",
        "model.safetensors.index.json",
        "model.fp16.safetensors",
    ] {
        assert!(error.contains(name), "{error}");
    }
    write(folder.path(), "model.fp16.safetensors", other);
    assert_eq!(values(&load(&files, None).unwrap()).1, [1.0, 2.0]);
    write(folder.path(), "model.safetensors", LINEAR);
    assert_eq!(values(&load(&files, None).unwrap()).1, [7.0, -8.0]);
    assert_eq!(values(&load(&files, Some("fp16")).unwrap()).1, [1.0, 2.0]);
    let error = load(&files, Some("ema")).unwrap_err();
    assert!(matches!(error, Error::NoWeights { .. }), "{error:?}");
}

#[test]
fn shards_are_put_together() {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::directory(folder.path());
    write(folder.path(), "model-1.safetensors", &LINEAR[..1]);
    write(folder.path(), "model-2.safetensors", &LINEAR[1..]);
    let index = |map: serde_json::Value| {
        let text = json!({"metadata": {"total_size": 32}, "weight_map": map}).to_string();
        fs::write(folder.path().join("model.safetensors.index.json"), text).unwrap();
    };
    let (one, two) = ("model-1.safetensors", "model-2.safetensors");
    index(json!({"weight": one, "bias": two}));
    assert_eq!(values(&load(&files, None).unwrap()).0, VALUES);

    let expect = |map, message: &str| {
        index(map);
        let error = load(&files, None).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    expect(json!({"weight": one}), "missing: bias");
    expect(
        json!({"weight": one, "bias": one}),
        "tensor bias is in none of the shards",
    );
    expect(
        json!({"bias": two, "scale": two}),
        "tensor scale is in none of the shards",
    );
    expect(
        json!({"weight": one, "bias": "model-3.safetensors"}),
        "model-3.safetensors",
    );
    for outside in [
        "../model-2.safetensors",
        "/etc/passwd",
        "a/b",
        "..",
        "",
        "c:\\x",
        "a\0",
    ] {
        expect(
            json!({"weight": one, "bias": outside}),
            "is not the name of a file in this folder",
        );
    }
    write(folder.path(), two, LINEAR);
    expect(
        json!({"weight": one, "bias": two}),
        "tensor weight is there twice",
    );
    fs::write(folder.path().join(two), "").unwrap();
    expect(
        json!({"weight": one, "bias": two}),
        "model-2.safetensors: not a sound safetensors",
    );
    expect(json!({"weight": 3}), "invalid type");
}

#[test]
fn sharded_fp16_files_are_found() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "model.fp16-1.safetensors", LINEAR);
    let map = json!({"weight": "model.fp16-1.safetensors", "bias": "model.fp16-1.safetensors"});
    let index = folder.path().join("model.safetensors.index.fp16.json");
    fs::write(index, json!({ "weight_map": map }).to_string()).unwrap();
    load(&Files::directory(folder.path()), Some("fp16")).unwrap();
    load(&Files::directory(folder.path()), None).unwrap();
}

#[test]
fn files_in_memory_are_found_by_folder_and_name() {
    let files = Files::memory([
        ("unet/model.safetensors", serialize(LINEAR)),
        ("unet/config.json", b"{\"a\": 1}".to_vec()),
    ]);
    assert!(!files.has("config.json"));
    let unet = files.folder("unet");
    assert!(unet.has("config.json") && !unet.has("../unet/config.json"));
    let config: HashMap<String, u32> = unet.json("config.json").unwrap();
    assert_eq!(config["a"], 1);
    load(&unet, None).unwrap();
    let error = unet.json::<HashMap<String, u32>>("other.json").unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
}

/// The middle of a VAE, as far as its attention's names go.
#[derive(Module, Debug)]
struct Vae {
    mid_block: Mid,
}

#[derive(Module, Debug)]
struct Mid {
    attentions: Vec<Attention>,
}

#[derive(Module, Debug)]
struct Attention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Vec<Linear>,
}

fn vae() -> Vae {
    let device = Device::flex();
    let linear = || Linear::new(2, 2, true, &device);
    let attention = Attention {
        group_norm: GroupNorm::new(1, 2, 1e-6, &device),
        to_q: linear(),
        to_k: linear(),
        to_v: linear(),
        to_out: vec![linear()],
    };
    Vae {
        mid_block: Mid {
            attentions: vec![attention],
        },
    }
}

/// Writes and loads a VAE whose layers are called `names`, their weights of shape `shape`.
fn load_vae(names: [&str; 4], shape: &[usize]) -> Result<Vae, Error> {
    let layers = names.iter().zip(1..).flat_map(|(name, n)| {
        let name = |p| format!("mid_block.attentions.0.{name}.{p}");
        let n = n as f32;
        let weight = (name("weight"), shape, vec![n, 0.0, 0.5, -n]);
        [weight, (name("bias"), &[2][..], vec![n, n])]
    });
    let norm = ["weight", "bias"].map(|p| format!("mid_block.attentions.0.group_norm.{p}"));
    let norm = norm.map(|name| (name, &[2][..], vec![1.0, 2.0]));
    let tensors: Vec<(String, &[usize], Vec<f32>)> = layers.chain(norm).collect();
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(n, s, v)| (n.as_str(), *s, &v[..]))
        .collect();
    let weights = Weights::from_bytes("vae", serialize(&tensors))?;
    weights.load_into(vae(), FloatDType::F32)
}

#[test]
fn every_generation_of_vae_attention_loads() {
    let today = ["to_q", "to_k", "to_v", "to_out.0"];
    let old = ["query", "key", "value", "proj_attn"];
    for (names, shape) in [
        (today, &[2, 2][..]),
        (old, &[2, 2]),
        (old, &[2, 2, 1, 1]),
        (today, &[2, 2, 1]),
        (old, &[1, 2, 2]),
    ] {
        let vae = load_vae(names, shape).unwrap();
        let attention = &vae.mid_block.attentions[0];
        let layers = [
            &attention.to_q,
            &attention.to_k,
            &attention.to_v,
            &attention.to_out[0],
        ];
        for (layer, n) in layers.iter().zip(1..) {
            let n = n as f32;
            assert_eq!(values(layer), (vec![n, 0.0, 0.5, -n], vec![n, n]));
        }
    }
    let error = load_vae(old, &[4, 1]).unwrap_err().to_string();
    assert!(error.contains("4 misshapen"), "{error}");
    let error = load_vae(["query", "to_k", "value", "out"], &[2, 2])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("2 unused: mid_block.attentions.0.out.bias"),
        "{error}"
    );
}
