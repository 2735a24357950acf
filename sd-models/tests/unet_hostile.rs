//! Configurations that are wrong, absurd or beyond what is implemented: an error that names the
//! setting, and never a panic or anything allocated.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use proptest::prelude::*;
use sd_models::unet::{UNet2DConditionModel, UNetConfig};
use sd_models::vae::{AutoencoderKL, AutoencoderTiny, TinyVaeConfig, VaeConfig};
use sd_models::{ConfigFile, Error};
use serde_json::{Map, Value, json};

fn base(name: &str) -> Map<String, Value> {
    let file = sd_fixtures::path(&format!("keys/{name}.txt"));
    let text = std::fs::read_to_string(file).expect("a list of keys");
    let line = text.lines().next().expect("a first line");
    serde_json::from_str(line).expect("a configuration")
}

fn with(name: &str, field: &str, value: Value) -> ConfigFile {
    let mut config = base(name);
    config.insert(field.into(), value);
    ConfigFile::new("config.json", config)
}

#[track_caller]
fn assert_names(error: &Error, field: &str) {
    let named = match error {
        Error::Config { field, .. } => field.clone(),
        Error::Unsupported { what, .. } => what.clone(),
        other => panic!("{other}"),
    };
    assert!(named.contains(field), "{field} is wrong, but: {error}");
}

#[test]
fn wrong_settings_of_the_unet_are_named() {
    let huge = json!(1u64 << 40);
    let cases = [
        ("in_channels", json!(0)),
        ("in_channels", json!(-4)),
        ("in_channels", json!(4.5)),
        ("out_channels", huge.clone()),
        ("sample_size", json!([64])),
        ("sample_size", json!(0)),
        ("center_input_sample", json!("yes")),
        ("flip_sin_to_cos", json!(1)),
        ("freq_shift", json!(-1)),
        ("freq_shift", json!(160)),
        ("down_block_types", json!([])),
        ("down_block_types", json!(["DownBlock2D"])),
        ("down_block_types", json!("DownBlock2D")),
        ("down_block_types", json!(vec!["AttnDownBlock2D"; 4])),
        ("up_block_types", json!(vec!["SimpleCrossAttnUpBlock2D"; 4])),
        ("up_block_types", json!(vec!["UpBlock2D"; 5])),
        ("mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn")),
        ("mid_block_type", json!(3)),
        ("only_cross_attention", json!([true])),
        ("block_out_channels", json!([])),
        ("block_out_channels", json!([320, 640, 1280, 0])),
        ("block_out_channels", json!([320, 640, 1280, huge])),
        ("block_out_channels", json!(vec![320; 9])),
        ("layers_per_block", json!(0)),
        ("layers_per_block", huge.clone()),
        ("layers_per_block", json!([2, 2])),
        ("transformer_layers_per_block", json!(1000)),
        ("transformer_layers_per_block", json!([1, 2, 10])),
        ("transformer_layers_per_block", json!([1, 1, 1, -1])),
        (
            "reverse_transformer_layers_per_block",
            json!([[1], 1, 1, 1]),
        ),
        ("attention_head_dim", json!(0)),
        ("attention_head_dim", json!(7)),
        ("attention_head_dim", json!([8, 8])),
        ("num_attention_heads", json!(8)),
        ("cross_attention_dim", json!(0)),
        ("cross_attention_dim", Value::Null),
        ("cross_attention_dim", json!([768, 768, 1024, 768])),
        ("norm_num_groups", json!(33)),
        ("norm_num_groups", json!(0)),
        ("norm_num_groups", Value::Null),
        ("norm_eps", json!(0)),
        ("norm_eps", json!(-1e-5)),
        ("act_fn", json!("gelu")),
        ("downsample_padding", json!(2)),
        ("mid_block_scale_factor", json!(0)),
        ("resnet_time_scale_shift", json!("ada_group")),
        ("upcast_attention", json!("no")),
        ("addition_embed_type", json!("text")),
        ("conv_in_kernel", json!(4)),
        ("conv_out_kernel", json!(33)),
        ("time_cond_proj_dim", json!(0)),
        ("time_embedding_dim", huge.clone()),
        // Known to diffusers, not implemented here.
        ("dual_cross_attention", json!(true)),
        ("encoder_hid_dim", json!(768)),
        ("encoder_hid_dim_type", json!("text_proj")),
        ("class_embed_type", json!("timestep")),
        ("class_embeddings_concat", json!(true)),
        ("num_class_embeds", json!(0)),
        ("attention_type", json!("gated")),
        ("time_embedding_type", json!("fourier")),
        ("time_embedding_act_fn", json!("silu")),
        ("timestep_post_act", json!("silu")),
        ("resnet_skip_time_act", json!(true)),
        ("resnet_out_scale_factor", json!(1.5)),
        ("cross_attention_norm", json!("layer_norm")),
        // Known to nobody.
        ("a_setting_of_tomorrow", json!(1)),
        ("_class_name", json!("UNet3DConditionModel")),
    ];
    for (field, value) in cases {
        match UNetConfig::new(&with("sd15_unet", field, value.clone())) {
            Err(error) => assert_names(&error, field),
            Ok(_) => panic!("{field} = {value} is accepted"),
        }
    }
    for field in [
        "addition_time_embed_dim",
        "projection_class_embeddings_input_dim",
    ] {
        for value in [Value::Null, json!(0), json!("256")] {
            let error = UNetConfig::new(&with("sdxl_unet", field, value));
            assert_names(&error.expect_err("wrong"), field);
        }
    }
    let lists = with(
        "sdxl_unet",
        "transformer_layers_per_block",
        json!([1, [2, 2], 10]),
    );
    let error = UNetConfig::new(&lists).expect_err("the way up is open");
    assert_names(&error, "reverse_transformer_layers_per_block");
}

#[test]
fn wrong_settings_of_the_vae_are_named() {
    let cases = [
        ("in_channels", json!(0)),
        ("latent_channels", json!(-4)),
        ("block_out_channels", json!(vec![1u64 << 40; 4])),
        ("block_out_channels", json!([])),
        ("layers_per_block", json!(17)),
        ("layers_per_block", json!([2, 2, 2, 2])),
        ("norm_num_groups", json!(3)),
        ("act_fn", json!("relu")),
        ("scaling_factor", json!(0)),
        ("scaling_factor", json!("0.18215")),
        ("shift_factor", json!("none")),
        ("down_block_types", json!(vec!["AttnDownEncoderBlock2D"; 4])),
        ("down_block_types", json!(vec!["DownEncoderBlock2D"; 3])),
        ("up_block_types", json!([1, 2, 3, 4])),
        ("use_quant_conv", json!(2)),
        ("force_upcast", json!("true")),
        ("sample_size", json!([512])),
        ("sample_size", json!([512, 0])),
        ("sample_size", json!([512, 512, 512])),
        ("sample_size", json!("512")),
        ("latents_mean", json!([0.0, 0.0, 0.0])),
        ("latents_mean", json!(0.0)),
        ("_class_name", json!("AutoencoderTiny")),
    ];
    for (field, value) in cases {
        match VaeConfig::new(&with("sd_vae", field, value.clone())) {
            Err(error) => assert_names(&error, field),
            Ok(_) => panic!("{field} = {value} is accepted"),
        }
    }
    // Of two lists and a shift, which one is wrong.
    let (mean, std) = (json!(vec![0.0; 4]), json!(vec![1.0; 4]));
    let cases = [
        (mean.clone(), Value::Null, Value::Null, "latents_std"),
        (Value::Null, std.clone(), Value::Null, "latents_mean"),
        (
            mean.clone(),
            json!([1, 1, 1, 0]),
            Value::Null,
            "latents_std",
        ),
        (mean.clone(), json!([1, 1, 1]), Value::Null, "latents_std"),
        (mean, std, json!(0.1), "shift_factor"),
    ];
    for (mean, std, shift, field) in cases {
        let file = with("sd_vae", "latents_mean", mean).with("latents_std", std);
        let error = VaeConfig::new(&file.with("shift_factor", shift));
        assert_names(&error.expect_err(field), field);
    }
}

#[test]
fn wrong_settings_of_the_tiny_vae_are_named() {
    let cases = [
        ("in_channels", json!(0)),
        ("latent_channels", json!(-4)),
        ("encoder_block_out_channels", json!([64, 64, 64, 128])),
        ("encoder_block_out_channels", json!([64, 64, 64])),
        ("encoder_block_out_channels", json!(64)),
        ("decoder_block_out_channels", json!([0, 0, 0, 0])),
        ("decoder_block_out_channels", json!([])),
        ("num_encoder_blocks", json!([])),
        ("num_encoder_blocks", json!(vec![1; 9])),
        ("num_encoder_blocks", json!([1, 3, 3, 1u64 << 40])),
        ("num_decoder_blocks", json!([3, 3, 1])),
        ("num_decoder_blocks", json!([3, 3, 3, -1])),
        ("scaling_factor", json!(0)),
        ("shift_factor", json!([0.0])),
        ("act_fn", json!("silu")),
        ("upsample_fn", json!("bilinear")),
        ("upsampling_scaling_factor", json!(4)),
        ("a_setting_of_tomorrow", json!(1)),
        ("_class_name", json!("AutoencoderKL")),
    ];
    for (field, value) in cases {
        match TinyVaeConfig::new(&with("taesd", field, value.clone())) {
            Err(error) => assert_names(&error, field),
            Ok(_) => panic!("{field} = {value} is accepted"),
        }
    }
    let empty = TinyVaeConfig::new(&ConfigFile::new("config.json", Map::new()));
    let taesd = TinyVaeConfig::new(&ConfigFile::new("config.json", base("taesd")));
    assert_eq!(empty.expect("good"), taesd.expect("good"));
}

#[test]
fn what_is_absent_is_as_in_diffusers() {
    let explicit = UNetConfig::new(&with("sd15_unet", "cross_attention_dim", json!(1280)));
    let empty = UNetConfig::new(&ConfigFile::new("config.json", Map::new()));
    assert_eq!(
        empty.expect("a good configuration"),
        explicit.expect("a good configuration")
    );

    let vae = VaeConfig::new(&ConfigFile::new("config.json", Map::new()));
    let defaults = VaeConfig {
        in_channels: 3,
        out_channels: 3,
        latent_channels: 4,
        block_out_channels: vec![64],
        layers_per_block: 1,
        norm_num_groups: 32,
        scaling_factor: 0.18215,
        shift_factor: 0.0,
        latents: None,
        use_quant_conv: true,
        use_post_quant_conv: true,
        mid_block_add_attention: true,
        force_upcast: true,
        sample_size: 32,
    };
    assert_eq!(vae.expect("a good configuration"), defaults);
}

#[test]
fn what_changes_nothing_is_accepted() {
    let cases = [
        ("dropout", json!(0.1)),
        ("mid_block_only_cross_attention", json!(true)),
        ("a_setting_of_tomorrow", json!(false)),
        ("a_setting_of_tomorrow", Value::Null),
        ("_name_or_path", json!("somewhere")),
        ("resnet_out_scale_factor", json!(1)),
    ];
    let usual = UNetConfig::new(&ConfigFile::new("config.json", base("sd15_unet")));
    let usual = usual.expect("a good configuration");
    for (field, value) in cases {
        let config = UNetConfig::new(&with("sd15_unet", field, value));
        assert_eq!(config.expect("accepted"), usual, "{field}");
    }
}

#[test]
fn an_autoencoders_size_may_be_two_sides() {
    let read = |size| VaeConfig::new(&with("sd_vae", "sample_size", size)).map(|c| c.sample_size);
    assert_eq!(read(json!(512)).expect("accepted"), 512);
    assert_eq!(read(json!([512, 512])).expect("accepted"), 512);
    // Of two, diffusers' tiles have the first.
    assert_eq!(read(json!([256, 512])).expect("accepted"), 256);
}

/// Counts parameters, and fails on one that holds values.
#[derive(Default)]
struct Counter(usize);

impl ModuleVisitor for Counter {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        assert!(!param.is_initialized());
        self.0 += 1;
    }
}

fn count(module: &impl Module) -> usize {
    let mut counter = Counter::default();
    module.visit(&mut counter);
    counter.0
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-2i64..40).prop_map(Value::from),
        prop::sample::select(vec![0, 1, 64, 320, 1280, 65_536, 1 << 40, u64::MAX])
            .prop_map(Value::from),
        any::<f64>().prop_map(|x| json!(x)),
    ]
}

fn word() -> impl Strategy<Value = Value> {
    let words = [
        "CrossAttnDownBlock2D",
        "DownBlock2D",
        "CrossAttnUpBlock2D",
        "UpBlock2D",
        "UNetMidBlock2D",
        "DownEncoderBlock2D",
        "UpDecoderBlock2D",
        "text_time",
        "scale_shift",
        "silu",
        "",
    ];
    prop::sample::select(words.to_vec()).prop_map(Value::from)
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        4 => number(),
        2 => word(),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(3, 16, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            (inner, 0usize..10).prop_map(|(value, n)| Value::from(vec![value; n])),
        ]
    })
}

/// Settings of the configuration `name`, some of them others than they should be.
fn mutated(name: &'static str) -> impl Strategy<Value = ConfigFile> {
    let fields: Vec<String> = base(name).keys().cloned().collect();
    let change = (
        prop::sample::select(fields),
        prop::option::weighted(0.9, value()),
    );
    prop::collection::vec(change, 1..4).prop_map(move |changes| {
        let mut config = base(name);
        for (field, value) in changes {
            match value {
                Some(value) => config.insert(field, value),
                None => config.remove(&field),
            };
        }
        ConfigFile::new("config.json", config)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_mutated_unet_is_refused_or_small(
        file in prop_oneof![mutated("sd15_unet"), mutated("sdxl_unet")],
    ) {
        if let Ok(config) = UNetConfig::new(&file) {
            let model = UNet2DConditionModel::new(&config, &Device::flex());
            prop_assert!(count(&model) < 300_000);
        }
    }

    #[test]
    fn a_mutated_tiny_vae_is_refused_or_small(file in mutated("taesd")) {
        if let Ok(config) = TinyVaeConfig::new(&file) {
            let model = AutoencoderTiny::new(&config, &Device::flex());
            prop_assert!(count(&model) < 10_000);
        }
    }

    #[test]
    fn a_mutated_vae_is_refused_or_small(file in mutated("sd_vae")) {
        if let Ok(config) = VaeConfig::new(&file) {
            let model = AutoencoderKL::new(&config, &Device::flex());
            prop_assert!(count(&model) < 10_000);
        }
    }
}
