//! A text encoder's configuration: what real ones say, and what hostile ones do.

use sd_models::{Activation, ClipTextConfig, ConfigFile, Error, Files, UnknownSettings};
use serde_json::{Value, json};

fn read(settings: Value) -> Result<ClipTextConfig, Error> {
    let settings = settings.as_object().unwrap().clone();
    ClipTextConfig::from_file(&ConfigFile::new("text_encoder/config.json", settings))
}

#[test]
fn stable_diffusion_2_and_sdxl_are_other_values() {
    let sd2 = read(json!({
        "architectures": ["CLIPTextModel"], "hidden_act": "gelu", "hidden_size": 1024,
        "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23,
        "projection_dim": 512, "eos_token_id": 2, "torch_dtype": "float32",
    }))
    .unwrap();
    assert_eq!(sd2.hidden_act, Activation::Gelu);
    assert_eq!((sd2.num_hidden_layers, sd2.vocab_size), (23, 49408));
    assert_eq!((sd2.projection, sd2.eos_token_id), (None, 2));
    let xl = read(json!({
        "architectures": ["CLIPTextModelWithProjection"], "hidden_act": "gelu",
        "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20,
        "num_hidden_layers": 32, "projection_dim": 1280,
    }))
    .unwrap();
    assert_eq!(xl.projection, Some(1280));
}

#[test]
fn what_is_absent_or_null_is_as_in_transformers() {
    let config = read(json!({"hidden_size": null})).unwrap();
    assert_eq!((config.hidden_size, config.intermediate_size), (512, 2048));
    assert_eq!(
        (config.num_hidden_layers, config.num_attention_heads),
        (12, 8)
    );
    assert_eq!(
        (config.max_position_embeddings, config.eos_token_id),
        (77, 49407)
    );
    assert_eq!(config.hidden_act, Activation::QuickGelu);
    assert_eq!(config.layer_norm_eps, 1e-5);
}

#[test]
fn a_setting_out_of_range_is_an_error_that_names_it() {
    let fields = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
    ];
    let values = [
        json!(0),
        json!(-1),
        json!(1u64 << 40),
        json!(u64::MAX),
        json!(1.5),
        json!("12"),
        json!([12]),
    ];
    for field in fields {
        for value in &values {
            expect_config_error(field, value);
        }
    }
    for value in [json!(0), json!(-1e-5), json!("1e-5")] {
        expect_config_error("layer_norm_eps", &value);
    }
    expect_config_error("hidden_act", &json!("relu"));
    expect_config_error("hidden_act", &json!(3));
    expect_config_error("num_attention_heads", &json!(7));
    expect_config_error("eos_token_id", &json!(-1));
    expect_config_error("eos_token_id", &json!([1, 2]));
    expect_config_error("architectures", &json!("CLIPTextModel"));
}

#[test]
fn of_a_whole_clip_the_text_half_is_read() {
    let half = json!({"hidden_size": 96, "projection_dim": 48, "architectures": null});
    let whole = json!({
        "architectures": ["CLIPModel"], "hidden_size": 7, "projection_dim": 512, "logit_scale": 2.6,
        "text_config": half, "text_config_dict": {"hidden_size": 768}, "vision_config": {"a": 1},
    });
    assert_eq!(read(whole.clone()).unwrap(), read(half.clone()).unwrap());
    // The class is the whole's.
    let mut projecting = whole;
    projecting["architectures"] = json!(["CLIPTextModelWithProjection"]);
    assert_eq!(read(projecting).unwrap().projection, Some(48));
    assert_eq!(
        read(json!({"text_config": null})).unwrap(),
        read(json!({})).unwrap()
    );
    for wrong in [json!([1]), json!(1), json!("half")] {
        expect_config_error("text_config", &wrong);
    }
}

#[test]
fn a_setting_that_nobody_knows_is_refused_or_let_pass() {
    let known = read(json!({})).unwrap();
    for note in [
        "name_or_path",
        "decay",
        "use_cache",
        "torch_dtype",
        "_anything",
    ] {
        assert_eq!(read(json!({ note: 0.5 })).unwrap(), known, "{note}");
    }
    let file = |settings: Value| {
        let settings = settings.as_object().unwrap().clone();
        ConfigFile::new("text_encoder/config.json", settings)
    };
    let warned =
        |settings| ClipTextConfig::from_file(&file(settings).on_unknown(UnknownSettings::Warn));
    for (field, lets_pass) in [
        ("a_setting_of_tomorrow", true),
        ("use_tomorrow", true),
        ("use_attention_mask", false),
        ("quantization_config", false),
    ] {
        let settings = json!({ field: true });
        let error = read(settings.clone()).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
        assert!(error.to_string().contains(field), "{error}");
        assert_eq!(warned(settings).is_ok(), lets_pass, "{field}");
        assert!(read(json!({ field: false })).is_ok(), "{field}");
    }
}

fn expect_config_error(field: &str, value: &Value) {
    match read(json!({ field: value })) {
        Err(Error::Config { field: named, .. }) => assert_eq!(named, field, "{value}"),
        other => panic!("{field} = {value}: {other:?}"),
    }
}

#[test]
fn a_file_that_is_no_configuration_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::directory(folder.path());
    assert!(matches!(
        ClipTextConfig::read(&files),
        Err(Error::Io { .. })
    ));
    let deep = "[".repeat(200_000);
    let deep_in_object = format!("{{\"hidden_size\": {deep}");
    for text in [
        "",
        "{",
        "[]",
        "3",
        "{\"hidden_size\": 51",
        &deep,
        &deep_in_object,
    ] {
        std::fs::write(folder.path().join("config.json"), text).unwrap();
        let result = ClipTextConfig::read(&files);
        assert!(matches!(result, Err(Error::Json { .. })), "{result:?}");
    }
}
