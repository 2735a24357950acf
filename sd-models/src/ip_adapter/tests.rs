//! Adapters at full size, and files that are none.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{DType, Device};
use serde_json::Value;

use super::*;
use crate::unet::UNetConfig;
use crate::weights::TensorInfo;
use crate::{ConfigFile, Error, LoadOptions, Result, TensorSource, Weights, parameter_shapes};

/// Names and shapes without values.
struct Listed(Vec<TensorInfo>, BTreeMap<String, String>);

impl Listed {
    fn weights(shapes: &BTreeMap<String, Vec<usize>>) -> Weights {
        let tensors = shapes.iter().map(|(name, shape)| TensorInfo {
            name: name.clone(),
            shape: shape.clone(),
            stored: "F16",
            dtype: Some(DType::F16),
        });
        Weights::from_source(Arc::new(Self(tensors.collect(), BTreeMap::new()))).unwrap()
    }
}

impl TensorSource for Listed {
    fn path(&self) -> &Path {
        Path::new("listed.safetensors")
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.0
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.1
    }

    fn read(&self, _: usize, _: usize, _: &mut [u8]) -> Result<()> {
        unreachable!("no values are asked for")
    }
}

type Shapes = BTreeMap<String, Vec<usize>>;

/// Adapters by their published names: the U-Net's, the kind and the tensors.
fn full_size() -> Vec<(String, String, String, Shapes)> {
    let text = std::fs::read_to_string(sd_fixtures::path("image_prompts/full_size.json")).unwrap();
    let all: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    let row = |(name, row): (String, Value)| {
        let text = |field: &str| row[field].as_str().unwrap().to_string();
        let shapes = serde_json::from_value(row["shapes"].clone()).unwrap();
        (name, text("unet"), text("kind"), shapes)
    };
    all.into_iter().map(row).collect()
}

#[test]
fn every_tensor_of_published_adapters_has_its_place() {
    let adapters = full_size();
    assert_eq!(adapters.len(), 6);
    for (name, unet, kind, shapes) in adapters {
        let weights = Listed::weights(&shapes);
        let config = IpAdapterConfig::of(&weights).unwrap();
        let model = IpAdapterModel::new(&config, &Device::flex());
        assert_eq!(parameter_shapes(&model), shapes, "{name}");
        let (settings, _) = sd_fixtures::keys(&unet);
        let unet = UNetConfig::new(&ConfigFile::new("config.json", settings)).unwrap();
        let widths: Vec<usize> = unet
            .cross_attention()
            .iter()
            .map(|layer| layer.width)
            .collect();
        assert_eq!(config.layers, widths, "{name}");
        assert_eq!(config.context_width, unet.cross_attention_dim);
        let family = if name.contains("sdxl") { "sdxl" } else { "sd1" };
        assert_eq!(config.family(), Some(family));
        let kinds = [("plain", "plain"), ("plus", "Plus"), ("full", "full-face")];
        let said = kinds.iter().find(|(short, _)| *short == kind).unwrap().1;
        assert_eq!(config.projection.name(), said);
    }
}

#[test]
fn layers_are_numbered_down_up_and_middle() {
    let (settings, _) = sd_fixtures::keys("sdxl_unet");
    let unet = UNetConfig::new(&ConfigFile::new("config.json", settings)).unwrap();
    let layers = unet.cross_attention();
    assert_eq!(layers.len(), 70);
    assert_eq!(
        layers[0].path,
        "down_blocks.1.attentions.0.transformer_blocks.0"
    );
    assert_eq!(
        layers[24].path,
        "up_blocks.0.attentions.0.transformer_blocks.0"
    );
    assert_eq!(
        layers[69].path,
        "mid_block.attentions.0.transformer_blocks.9"
    );
}

/// The error of a plain or Plus adapter of Stable Diffusion 1 that is changed.
fn error_of(kind: &str, change: impl FnOnce(&mut Shapes)) -> Error {
    let all = full_size();
    let (.., mut shapes) = all.into_iter().find(|(name, ..)| name == kind).unwrap();
    change(&mut shapes);
    let weights = Listed::weights(&shapes);
    let config = IpAdapterConfig::of(&weights);
    let checked = config.and_then(|config| {
        let model = IpAdapterModel::new(&config, &Device::flex());
        weights.check(&model)
    });
    checked.unwrap_err()
}

#[test]
fn tensors_that_nobody_reads_or_that_are_not_there_are_errors_that_name_them() {
    let (plain, plus) = ("ip_adapter_sd15", "ip_adapter_plus_sd15");
    let cases: [(&str, &str, &[usize]); 9] = [
        (plain, "ip_adapter.2.to_k_ip.weight", &[320, 768]),
        (plain, "ip_adapter.33.to_v_ip.weight", &[320, 768]),
        (
            plain,
            "ip_adapter.18446744073709551615.to_k_ip.weight",
            &[1, 1],
        ),
        (plain, "ip_adapter.7.to_v_ip.weight", &[320, 320]),
        (plain, "image_proj.norm.bias", &[5]),
        (plain, "image_proj.something.weight", &[5]),
        (plus, "image_proj.layers.9.0.to_q.weight", &[768, 768]),
        (plus, "image_proj.layers.1.1.3.weight", &[768, 768]),
        (plus, "a.stranger", &[1]),
    ];
    for (kind, name, shape) in cases {
        let error = error_of(kind, |shapes| {
            shapes.insert(name.into(), shape.to_vec());
        });
        assert!(matches!(error, Error::Tensors { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    for (kind, name) in [
        (plain, "image_proj.proj.bias"),
        (plain, "ip_adapter.9.to_v_ip.weight"),
        (plus, "image_proj.layers.2.0.norm1.weight"),
    ] {
        let error = error_of(kind, |shapes| drop(shapes.remove(name)));
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn shapes_that_cannot_be_are_errors_before_anything_is_made_of_them() {
    let plus = "ip_adapter_plus_sd15";
    let cases: [(&str, &[usize]); 6] = [
        ("image_proj.latents", &[2, 16, 768]),
        ("image_proj.latents", &[]),
        ("image_proj.layers.0.0.to_q.weight", &[100, 768]),
        ("image_proj.proj_in.weight", &[0, 1280]),
        ("ip_adapter.1.to_k_ip.weight", &[320]),
        ("ip_adapter.31.to_k_ip.weight", &[1280, 768, 1, 3]),
    ];
    for (name, shape) in cases {
        let error = error_of(plus, |shapes| {
            shapes.insert(name.into(), shape.to_vec());
        });
        assert!(matches!(error, Error::Adapter { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn face_id_is_named_as_not_supported() {
    let plain = "ip_adapter_sd15";
    let rows: [&[&str]; 3] = [
        &["image_proj.perceiver_resampler.proj_in.weight"],
        &["image_proj.norm.weight", "image_proj.proj.0.weight"],
        &["ip_adapter.0.to_q_lora.down.weight"],
    ];
    for names in rows {
        let error = error_of(plain, |shapes| {
            for name in names {
                shapes.insert((*name).into(), vec![4, 4]);
            }
        });
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("FaceID"), "{error}");
    }
    let error = error_of(plain, |shapes| {
        shapes.retain(|name, _| !name.starts_with("ip_"));
    });
    assert!(matches!(error, Error::Contents { .. }), "{error}");
}

#[test]
fn folders_of_none_of_several_and_with_another_encoder_are_errors() {
    let options = LoadOptions::new(&Device::flex());
    let fails = |path: &Path, words: &str| {
        let error = IpAdapterFiles::open(path, &options)
            .unwrap_err()
            .to_string();
        assert!(error.contains(words), "{error}");
    };
    let folder = sd_fixtures::path("image_prompts/sd1_plain");
    let own = folder.join("adapter.safetensors");
    let (opened, beside) = (
        IpAdapterFiles::open(&folder, &options).unwrap(),
        IpAdapterFiles::open(&own, &options).unwrap(),
    );
    assert_eq!(opened.config(), beside.config());
    assert_eq!(opened.path(), own);
    fails(&folder.join("nowhere"), "nowhere");
    fails(&folder.join("image_encoder"), "image_proj");
    let place = tempfile::tempdir().unwrap();
    let copy = |name: &str| std::fs::copy(&own, place.path().join(name)).unwrap();
    fails(place.path(), "no IP-Adapter is there");
    copy("one.safetensors");
    fails(place.path(), "image_encoder");
    copy("two.safetensors");
    fails(place.path(), "2 files of tensors");
    let other = sd_fixtures::path("vision");
    let source = crate::open_source(&own).unwrap();
    let files = crate::Files::directory(other).folder("l_14");
    let error = IpAdapterFiles::of_source(source, &files, &options).unwrap_err();
    assert!(error.to_string().contains("12 wide"), "{error}");
}
