//! CLIP's tower of pictures: its numbers are transformers', and a whole CLIP and a safety checker
//! have exactly its parameters.

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use sd_fixtures::Fixture;
use sd_models::{
    ClipConfig, ClipModel, ClipVisionConfig, ClipVisionModelWithProjection, ConfigFile, Error,
    Files, LoadOptions, SafetyCheckerConfig, SafetyCheckerModel, parameter_shapes,
};
use serde_json::{Value, json};

/// The references are transformers' in f64; the difference is rounding alone, 3e-6 when measured.
const TOLERANCE: f64 = 1e-5;

fn folder(case: &str) -> Files {
    Files::directory(sd_fixtures::path("vision")).folder(case)
}

fn pixels(fixture: &Fixture, side: usize) -> Tensor<4> {
    let first = fixture.settings()["first_seed"].as_u64().unwrap();
    let bytes = (first..first + 3).flat_map(|seed| sd_fixtures::picture(seed, side, side));
    let values: Vec<f32> = bytes.map(|v| f32::from(v) / 127.5 - 1.0).collect();
    let data = TensorData::new(values, [3, side, side, 3]);
    Tensor::<4>::from_data(data, &Device::flex()).permute([0, 3, 1, 2])
}

fn compare(case: &str) {
    let fixture = Fixture::open(&format!("vision_{case}"));
    let files = folder(case);
    let config = ClipVisionConfig::read(&files).unwrap();
    let weights = files.weights("model", None).unwrap();
    let options = LoadOptions::new(&Device::flex());
    let plain = ClipVisionModelWithProjection::new(config.clone(), &options.device);
    let plain = weights.load_into(plain, FloatDType::F32).unwrap();
    let packed = ClipVisionModelWithProjection::load(config.clone(), &weights, &options);
    let (packed, bytes) = packed.unwrap();
    assert!(bytes.packed > bytes.plain && bytes.plain > 0);
    for model in [plain, packed] {
        let out = model.forward(pixels(&fixture, config.image_size)).unwrap();
        assert_eq!(out.hidden_states.len(), config.num_hidden_layers + 1);
        for (k, hidden) in out.hidden_states.into_iter().enumerate() {
            fixture.assert_tensor(&format!("hidden.{k}"), hidden, TOLERANCE);
        }
        fixture.assert_tensor("pooled", out.pooled, TOLERANCE);
    }
}

#[test]
fn vit_b_32() {
    compare("b_32");
}

#[test]
fn vit_l_14() {
    compare("l_14");
}

#[test]
fn open_clip_h_14_with_pixels_left_over() {
    compare("h_14");
}

#[test]
fn open_clip_big_g_14() {
    compare("big_g_14");
}

#[test]
fn pictures_of_another_shape_are_an_error() {
    let config = ClipVisionConfig::read(&folder("l_14")).unwrap();
    let model = ClipVisionModelWithProjection::new(config, &Device::flex());
    for shape in [
        [0, 3, 42, 42],
        [1, 4, 42, 42],
        [1, 3, 42, 56],
        [1, 3, 28, 28],
    ] {
        let error = model.forward(Tensor::zeros(shape, &Device::flex()));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("expected [n, 3, 42, 42]"), "{error}");
    }
}

#[test]
fn a_published_safety_checker_has_exactly_the_modules_parameters() {
    let (today, shapes) = sd_fixtures::keys("safety_checker");
    let (published, _) = sd_fixtures::keys("safety_checker_published");
    for settings in [today, published] {
        let config = SafetyCheckerConfig::from_file(&ConfigFile::new("config.json", settings));
        let config = config.unwrap();
        assert_eq!(
            (config.vision().image_size, config.vision().patch_size),
            (224, 14)
        );
        let model = SafetyCheckerModel::new(config, &Device::flex());
        assert_eq!(parameter_shapes(&model), shapes);
    }
}

fn whole(settings: Value) -> Result<ClipConfig, Error> {
    let settings = settings.as_object().unwrap().clone();
    ClipConfig::from_file(&ConfigFile::new("config.json", settings))
}

#[test]
fn settings_that_are_there_twice_are_taken_as_transformers_takes_them() {
    let config = whole(json!({
        "projection_dim": 7,
        "vision_config": {"hidden_size": 96, "hidden_act": "gelu", "image_size": 64},
        "vision_config_dict": {"hidden_size": 48, "patch_size": 16},
        "text_config": {"hidden_size": 64, "projection_dim": 3},
        "text_config_dict": null,
    }));
    let ClipConfig { text, vision, .. } = config.unwrap();
    assert_eq!((text.hidden_size, text.projection), (64, Some(7)));
    assert_eq!((vision.hidden_size, vision.patch_size), (48, 16));
    assert_eq!((vision.image_size, vision.projection_dim), (224, 7));
    assert_eq!(vision.hidden_act, sd_models::Activation::QuickGelu);
}

#[test]
fn settings_out_of_range_or_unknown_are_errors_that_name_them() {
    for (field, value) in [
        ("hidden_size", json!(0)),
        ("num_attention_heads", json!(7)),
        ("image_size", json!(5000)),
        ("image_size", json!([224, 224])),
        ("patch_size", json!(225)),
        ("patch_size", json!(0)),
        ("hidden_act", json!("relu")),
        ("layer_norm_eps", json!(-1)),
        ("num_channels", json!(4)),
        ("a_setting_of_tomorrow", json!(1)),
    ] {
        let error = whole(json!({"vision_config": {field: value}})).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
    let error = whole(json!({"a_setting_of_tomorrow": 1})).unwrap_err();
    assert!(
        error.to_string().contains("a_setting_of_tomorrow"),
        "{error}"
    );
}

#[test]
fn a_file_of_one_tower_is_no_whole_clip() {
    let options = LoadOptions::new(&Device::flex());
    let error = ClipModel::open(&folder("l_14"), &options).unwrap_err();
    assert!(error.to_string().contains("hidden_act"), "{error}");
    let read = |name: &str| std::fs::read(sd_fixtures::path(name)).unwrap();
    let files = Files::memory([
        ("config.json", read("clip_whole/config.json")),
        ("model.safetensors", read("vision/l_14/model.safetensors")),
    ]);
    match ClipModel::open(&files, &options).unwrap_err() {
        Error::Tensors { mismatch, .. } => {
            let missing = |name: &str| mismatch.missing.iter().any(|found| found == name);
            assert!(missing("logit_scale") && missing("text_projection.weight"));
            assert!(!missing("visual_projection.weight") && !mismatch.misshapen.is_empty());
        }
        other => panic!("{other}"),
    }
}
