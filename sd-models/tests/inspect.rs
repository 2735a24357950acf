//! What `inspect` says of the headers of real files (`fixtures/data/keys`), of files that are cut
//! short or lack something, and of adapters.

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use sd_models::{Inspection, Kind, Naming, PredictionType, inspect};
use serde_json::{Value, json};
use support::{Tensors, write};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What `inspect` says of a file of these tensors that is called so.
    fn inspect(&self, name: &str, tensors: &Tensors) -> Inspection {
        let path = self.path(name);
        write(&path, tensors, json!({}));
        let found = inspect(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        found
    }
}

const EPSILON: Option<PredictionType> = Some(PredictionType::Epsilon);
const V: Option<PredictionType> = Some(PredictionType::VPrediction);
const SD1: &[&str] = &["unet", "vae", "text_encoder"];
const SDXL: &[&str] = &["unet", "vae", "text_encoder", "text_encoder_2"];

/// A single file: kind, family, what its output means, its parts, and its published parameters.
type Single = (
    &'static str,
    Kind,
    Option<&'static str>,
    Option<PredictionType>,
    &'static [&'static str],
    u64,
);

const SINGLES: &[Single] = &[
    (
        "sd15-pruned-emaonly",
        Kind::Model,
        Some("sd1"),
        EPSILON,
        SD1,
        1_066_247_308,
    ),
    (
        "sd15-pruned-with-ema",
        Kind::Model,
        Some("sd1"),
        EPSILON,
        &["unet", "vae", "text_encoder", "unet_ema"],
        1_925_768_272,
    ),
    (
        "sd15-fp16-nai-text-names",
        Kind::Model,
        Some("sd1"),
        EPSILON,
        SD1,
        1_066_235_307,
    ),
    (
        "sd15-inpainting",
        Kind::Model,
        Some("sd1"),
        EPSILON,
        SD1,
        1_066_261_708,
    ),
    (
        "sd15-instruct-pix2pix",
        Kind::Model,
        Some("sd1"),
        EPSILON,
        &["unet", "vae", "text_encoder", "unet_ema"],
        1_925_791_312,
    ),
    ("sd21", Kind::Model, Some("sd2"), None, SD1, 1_303_609_229),
    (
        "sd2-inpainting",
        Kind::Model,
        Some("sd2"),
        EPSILON,
        SD1,
        1_303_623_629,
    ),
    (
        "sd2-depth",
        Kind::Model,
        Some("sd2"),
        EPSILON,
        &["unet", "vae", "text_encoder", "depth_estimator"],
        1_426_759_094,
    ),
    (
        "sd2-short-text-encoder",
        Kind::Model,
        Some("sd2"),
        None,
        SD1,
        1_289_952_427,
    ),
    (
        "sd-turbo",
        Kind::Model,
        Some("sd2"),
        EPSILON,
        SD1,
        1_303_597_228,
    ),
    (
        "sdxl-base",
        Kind::Model,
        Some("sdxl"),
        EPSILON,
        SDXL,
        3_468_837_868,
    ),
    (
        "sdxl-vpred-ztsnr-markers",
        Kind::Model,
        Some("sdxl"),
        V,
        SDXL,
        3_468_837_868,
    ),
    (
        "sdxl-refiner",
        Kind::Model,
        Some("sdxl_refiner"),
        EPSILON,
        &["unet", "vae", "text_encoder_2"],
        3_037_840_364,
    ),
    (
        "clip-openclip-h",
        Kind::TextEncoder,
        Some("sd2"),
        None,
        &["text_encoder"],
        354_032_641,
    ),
    (
        "clip-openclip-g",
        Kind::TextEncoder,
        None,
        None,
        &["text_encoder_2"],
        694_659_841,
    ),
    ("vae", Kind::Vae, None, None, &["vae"], 83_653_863),
    (
        "ssd-1b",
        Kind::Model,
        Some("ssd_1b"),
        EPSILON,
        SDXL,
        2_232_708_588,
    ),
    (
        "segmind-vega",
        Kind::Model,
        Some("vega"),
        EPSILON,
        SDXL,
        1_646_599_788,
    ),
    (
        "sdxl-inpainting",
        Kind::Model,
        Some("sdxl"),
        EPSILON,
        SDXL,
        3_468_852_268,
    ),
    (
        "lcm-sd15-unet",
        Kind::Unet,
        Some("lcm"),
        EPSILON,
        &["unet"],
        859_602_884,
    ),
    (
        "koala-700m-unet-compact",
        Kind::Unet,
        Some("koala"),
        EPSILON,
        &["unet"],
        782_822_724,
    ),
    (
        "small-sd-gap-numbering",
        Kind::Model,
        Some("small_sd"),
        EPSILON,
        SD1,
        786_099_307,
    ),
    (
        "tiny-sd-gap-numbering",
        Kind::Model,
        Some("tiny_sd"),
        EPSILON,
        SD1,
        530_099_307,
    ),
    (
        "sd3-medium-incl-clips-t5",
        Kind::Model,
        Some("sd3"),
        None,
        &[
            "transformer",
            "vae",
            "text_encoder",
            "text_encoder_2",
            "text_encoder_3",
        ],
        7_749_392_590,
    ),
    (
        "flux-dev-all-in-one",
        Kind::Model,
        Some("flux"),
        None,
        &["transformer", "vae", "text_encoder", "text_encoder_2"],
        16_870_599_139,
    ),
    (
        "taesd-encoder-pth",
        Kind::Vae,
        None,
        None,
        &["vae"],
        1_222_532,
    ),
    (
        "taesd-decoder-pth",
        Kind::Vae,
        None,
        None,
        &["vae"],
        1_222_531,
    ),
    (
        "taef1-encoder-pth",
        Kind::Vae,
        Some("flux"),
        None,
        &["vae"],
        1_229_456,
    ),
    (
        "taef1-decoder-pth",
        Kind::Vae,
        Some("flux"),
        None,
        &["vae"],
        1_229_443,
    ),
];

#[test]
fn the_single_files_that_people_have_are_told_apart() {
    let folder = Folder::new();
    for (name, kind, family, prediction, components, parameters) in SINGLES {
        let tensors = sd_fixtures::tensors(&format!("ldm/{name}"));
        let found = folder.inspect(&format!("{name}.safetensors"), &tensors);
        let said = (found.kind, found.family.as_deref(), found.prediction);
        assert_eq!(said, (*kind, *family, *prediction), "{name}");
        assert_eq!(found.components, *components, "{name}");
        assert_eq!(found.parameters, *parameters, "{name}");
        assert_eq!(found.missing, [""; 0], "{name}");
        let naming = match name.starts_with("tae") {
            true => Naming::Taesd,
            false => Naming::Ldm,
        };
        assert_eq!(found.layout, Some(naming), "{name}");
        let is_ambiguous = match kind {
            Kind::Model | Kind::Unet => prediction.is_none() && *family == Some("sd2"),
            _ => family.is_none(),
        };
        assert_eq!(
            !found.ambiguous.is_empty(),
            is_ambiguous,
            "{name}: {:?}",
            found.ambiguous
        );
        let mut dtypes = BTreeMap::new();
        for (_, dtype, _) in tensors {
            *dtypes.entry(dtype).or_default() += 1;
        }
        assert_eq!(found.dtypes, dtypes, "{name}");
        assert_eq!(found.zero_terminal_snr, name.contains("ztsnr"));
    }
}

#[test]
fn diffusers_files_are_told_apart() {
    let folder = Folder::new();
    let unets = [
        ("sd15", "sd1", EPSILON, 4),
        ("sd21", "sd2", None, 4),
        ("sdxl-base", "sdxl", EPSILON, 4),
        ("sdxl-refiner", "sdxl_refiner", EPSILON, 4),
        ("sd15-inpaint", "sd1", EPSILON, 9),
        ("sd2-inpaint", "sd2", EPSILON, 9),
        ("sdxl-inpaint", "sdxl", EPSILON, 9),
        ("sd15-pix2pix", "sd1", EPSILON, 8),
        ("ssd-1b", "ssd_1b", EPSILON, 4),
        ("segmind-vega", "vega", EPSILON, 4),
        ("small-sd", "small_sd", EPSILON, 4),
        ("bk-small", "bk_small", EPSILON, 4),
        ("tiny-sd", "tiny_sd", EPSILON, 4),
        ("bk-v2-tiny", "bk_v2_tiny", EPSILON, 4),
        ("koala-700m", "koala", EPSILON, 4),
        ("koala-1b", "koala", EPSILON, 4),
        ("sdxs-512", "sdxs", EPSILON, 4),
        ("lcm-sd15", "lcm", EPSILON, 4),
        ("lcm-sdxl", "lcm_sdxl", EPSILON, 4),
    ];
    for (name, family, prediction, channels) in unets {
        let tensors = sd_fixtures::tensors(&format!("diffusers/unet-{name}"));
        let found = folder.inspect("diffusion_pytorch_model.safetensors", &tensors);
        let said = (
            found.kind,
            found.family.as_deref(),
            found.prediction,
            found.channels,
        );
        assert_eq!(
            said,
            (Kind::Unet, Some(family), prediction, Some(channels)),
            "{name}"
        );
        assert_eq!(found.layout, Some(Naming::Diffusers), "{name}");
        assert_eq!(found.missing, [""; 0], "{name}");
        assert_eq!(found.ambiguous.is_empty(), prediction.is_some(), "{name}");
    }
    let others = [
        ("vae-sd", Kind::Vae, None, Some(4)),
        ("vae-sd-old-names", Kind::Vae, None, Some(4)),
        ("vae-sd3-flux", Kind::Vae, None, Some(16)),
        ("vae-x4-upscaler", Kind::Vae, Some("x4_upscaler"), Some(4)),
        ("taesd", Kind::Vae, None, Some(4)),
        ("taesd3-taef1", Kind::Vae, None, Some(16)),
        ("clip-l", Kind::TextEncoder, None, None),
        ("clip-l-transformers5", Kind::TextEncoder, None, None),
        ("clip-l-projection", Kind::TextEncoder, None, None),
        ("clip-h", Kind::TextEncoder, Some("sd2"), None),
        ("clip-h-transformers5", Kind::TextEncoder, Some("sd2"), None),
        ("clip-g-projection", Kind::TextEncoder, None, None),
        ("t5-xxl-encoder", Kind::TextEncoder, None, None),
        ("safety-checker", Kind::SafetyChecker, None, None),
        (
            "safety-checker-transformers5",
            Kind::SafetyChecker,
            None,
            None,
        ),
        (
            "transformer-sd3-medium",
            Kind::Transformer,
            Some("sd3"),
            None,
        ),
        (
            "transformer-flux-dev",
            Kind::Transformer,
            Some("flux"),
            None,
        ),
    ];
    for (name, kind, family, channels) in others {
        let tensors = sd_fixtures::tensors(&format!("diffusers/{name}"));
        let found = folder.inspect("model.safetensors", &tensors);
        let said = (found.kind, found.family.as_deref(), found.channels);
        assert_eq!(said, (kind, family, channels), "{name}");
        assert_eq!(found.missing, [""; 0], "{name}");
        assert_eq!(found.prediction, None, "{name}");
    }
}

/// Networks of other families, also those that a U-Net of these is part of.
#[test]
fn foreign_networks_are_not_taken_for_these() {
    let folder = Folder::new();
    let sd2 = sd_fixtures::tensors("diffusers/unet-sd21");
    let mut video = sd2.clone();
    video.push((
        "down_blocks.0.attentions.0.temporal_transformer_blocks.0.norm1.bias".into(),
        "F32".into(),
        vec![320],
    ));
    let mut wide = sd2.clone();
    let keys = wide
        .iter_mut()
        .filter(|(name, ..)| name.ends_with("attn2.to_k.weight"));
    keys.for_each(|(.., shape)| shape[1] = 4096);
    let mut clip = sd2;
    for layer in ["linear_1", "linear_2"] {
        for (end, shape) in [("weight", vec![1280, 2048]), ("bias", vec![1280])] {
            clip.push((format!("add_embedding.{layer}.{end}"), "F32".into(), shape));
        }
    }
    for (tensors, family) in [(video, Some("svd")), (wide, None), (clip, None)] {
        let found = folder.inspect("model.safetensors", &tensors);
        assert_eq!((found.kind, found.family.as_deref()), (Kind::Unet, family));
        assert_eq!(found.ambiguous.is_empty(), family.is_some());
    }
    let pixart = tensors(&[
        ("transformer_blocks.0.attn1.to_k.weight", &[1152, 1152]),
        ("pos_embed.proj.weight", &[1152, 4, 2, 2]),
    ]);
    let found = folder.inspect("model.safetensors", &pixart);
    assert_eq!((found.kind, found.family), (Kind::Transformer, None));
    let t5 = tensors(&[
        ("enc.blk.0.attn_q.weight", &[4096, 4096]),
        ("token_embd.weight", &[32128, 4096]),
    ]);
    let found = folder.inspect("model.safetensors", &t5);
    assert_eq!((found.kind, found.family), (Kind::TextEncoder, None));
}

/// Every tensor that is taken away is missed, and nothing else is.
#[test]
fn whatever_is_taken_away_is_missed() {
    let folder = Folder::new();
    let lists = [
        "ldm/sd15-pruned-emaonly",
        "ldm/sd-turbo",
        "ldm/small-sd-gap-numbering",
        "diffusers/unet-sdxs-512",
        "diffusers/vae-sd",
        "diffusers/clip-l-transformers5",
        "ldm/clip-openclip-g",
    ];
    for list in lists {
        let tensors = sd_fixtures::tensors(list);
        let unused = [
            "position_ids",
            "alphas",
            "betas",
            "sqrt_",
            "log",
            "posterior_",
            "model_ema.",
            "scale_factor",
            "text_projection",
            "resblocks.23.",
        ];
        let ours = tensors
            .iter()
            .enumerate()
            .filter(|(_, (name, ..))| !unused.iter().any(|part| name.contains(part)));
        for (at, (name, ..)) in ours.step_by(29) {
            let mut rest = tensors.clone();
            rest.remove(at);
            let found = folder.inspect("model.safetensors", &rest);
            assert!(
                found.missing.contains(name),
                "{list}: {name}: {:?}",
                found.missing
            );
            assert!(
                found.missing.len() <= 3,
                "{list}: {name}: {:?}",
                found.missing
            );
        }
    }
    // Whole parts and whole layers.
    let tensors = sd_fixtures::tensors("ldm/sdxl-base");
    let without = |part: &str| {
        let rest = tensors
            .iter()
            .filter(|(name, ..)| !name.starts_with(part))
            .cloned();
        folder.inspect("model.safetensors", &rest.collect()).missing
    };
    assert_eq!(without("first_stage_model."), ["vae"]);
    assert_eq!(without("conditioner.embedders.1."), ["text_encoder_2"]);
    assert!(!without("model.diffusion_model.input_blocks.4.0.").is_empty());
    assert!(!without("model.diffusion_model.output_blocks.8.").is_empty());
    assert!(!without("model.diffusion_model.middle_block.2.").is_empty());
    assert!(!without("first_stage_model.decoder.").is_empty());
    assert!(!without("conditioner.embedders.1.model.transformer.resblocks.31.").is_empty());
    assert_eq!(
        without("conditioner.embedders.0.transformer.text_model.encoder.layers.11."),
        [""; 0]
    );
}

#[test]
fn a_file_that_is_cut_short_is_said_to_be() {
    let folder = Folder::new();
    let path = folder.path("model.safetensors");
    write(&path, &sd_fixtures::tensors("ldm/vae"), json!({}));
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1000).unwrap();
    let found = inspect(&path).unwrap();
    assert_eq!(found.kind, Kind::Vae);
    assert_eq!(found.missing.len(), 1);
    assert!(
        found.missing[0].contains("the file ends"),
        "{:?}",
        found.missing
    );
    assert!(
        found.missing[0].contains("(cut short?)"),
        "{:?}",
        found.missing
    );
    file.set_len(1000).unwrap();
    let error = inspect(&path).unwrap_err().to_string();
    assert!(error.contains("(cut short?)"), "{error}");
}

#[test]
fn prediction_types_are_said_with_their_reason() {
    let folder = Folder::new();
    let sd2 = sd_fixtures::tensors("diffusers/unet-sd21");
    let said = |name: &str, metadata: Value, yaml: Option<&str>, more: &[&str]| {
        let mut tensors = sd2.clone();
        tensors.extend(
            more.iter()
                .map(|name| (name.to_string(), "F32".into(), vec![0])),
        );
        let path = folder.path(name);
        write(&path, &tensors, metadata);
        let beside = path.with_extension("yaml");
        if let Some(yaml) = yaml {
            std::fs::write(&beside, yaml).unwrap();
        }
        let found = inspect(&path).unwrap();
        let _ = std::fs::remove_file(beside);
        assert_eq!(found.prediction.is_none(), !found.ambiguous.is_empty());
        assert_eq!(
            found.prediction.is_none(),
            found.prediction_reason.is_none()
        );
        found.prediction
    };
    let plain = "model.safetensors";
    assert_eq!(said(plain, json!({}), None, &[]), None);
    assert_eq!(
        said(plain, json!({"modelspec.prediction_type": "v"}), None, &[]),
        V
    );
    assert_eq!(
        said(
            plain,
            json!({"modelspec.prediction_type": "epsilon"}),
            None,
            &["v_pred"]
        ),
        EPSILON
    );
    assert_eq!(
        said(plain, json!({"ss_v_parameterization": "True"}), None, &[]),
        V
    );
    assert_eq!(
        said(
            plain,
            json!({"modelspec.architecture": "stable-diffusion-v2-512"}),
            None,
            &[]
        ),
        EPSILON
    );
    assert_eq!(said(plain, json!({}), None, &["v_pred", "ztsnr"]), V);
    assert_eq!(
        said(
            plain,
            json!({}),
            Some("params:\n  parameterization: \"v\"\n"),
            &[]
        ),
        V
    );
    assert_eq!(
        said(plain, json!({}), Some("params:\n  beta: 1\n"), &["v_pred"]),
        EPSILON
    );
    assert_eq!(said("sd-v2-768.safetensors", json!({}), None, &[]), V);
    assert_eq!(
        said("512-base-ema.safetensors", json!({}), None, &[]),
        EPSILON
    );
}

fn tensors(list: &[(&str, &[usize])]) -> Tensors {
    let tensor =
        |(name, shape): &(&str, &[usize])| (name.to_string(), "F16".to_string(), shape.to_vec());
    list.iter().map(tensor).collect()
}

/// A name for messages, tensors, and what they are said to be.
type Adapter<'a> = (
    &'a str,
    &'a [(&'a str, &'a [usize])],
    Kind,
    Option<&'a str>,
    Option<Naming>,
);

#[test]
fn adapters_are_never_taken_for_models() {
    let folder = Folder::new();
    let rows: &[Adapter<'_>] = &[
        (
            "kohya",
            &[
                (
                    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight",
                    &[8, 768],
                ),
                (
                    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight",
                    &[320, 8],
                ),
            ],
            Kind::Lora,
            Some("sd1"),
            Some(Naming::Kohya),
        ),
        (
            "kohya xl",
            &[(
                "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight",
                &[8, 2048],
            )],
            Kind::Lora,
            Some("sdxl"),
            Some(Naming::Kohya),
        ),
        (
            "text alone",
            &[(
                "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
                &[8, 1280],
            )],
            Kind::Lora,
            Some("sdxl"),
            Some(Naming::Kohya),
        ),
        (
            "loha",
            &[(
                "lora_unet_mid_block_attentions_0_proj_in.hada_w1_a",
                &[8, 8],
            )],
            Kind::Lora,
            None,
            Some(Naming::Kohya),
        ),
        (
            "diffusers",
            &[(
                "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight",
                &[8, 1024],
            )],
            Kind::Lora,
            Some("sd2"),
            Some(Naming::Diffusers),
        ),
        (
            "old diffusers",
            &[(
                "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight",
                &[4, 768],
            )],
            Kind::Lora,
            Some("sd1"),
            Some(Naming::Diffusers),
        ),
        (
            "peft",
            &[(
                "base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight",
                &[8, 2048],
            )],
            Kind::Lora,
            Some("sdxl"),
            Some(Naming::Peft),
        ),
        (
            "flux",
            &[(
                "transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight",
                &[8, 3072],
            )],
            Kind::Lora,
            Some("flux"),
            Some(Naming::Diffusers),
        ),
        (
            "a1111",
            &[("emb_params", &[4, 768])],
            Kind::TextualInversion,
            Some("sd1"),
            None,
        ),
        (
            "xl",
            &[("clip_l", &[2, 768]), ("clip_g", &[2, 1280])],
            Kind::TextualInversion,
            Some("sdxl"),
            None,
        ),
        (
            "word",
            &[("<cat-toy>", &[1024])],
            Kind::TextualInversion,
            Some("sd2"),
            None,
        ),
        (
            "control",
            &[
                ("control_model.input_hint_block.0.weight", &[16, 3, 3, 3]),
                (
                    "control_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
                    &[320, 768],
                ),
            ],
            Kind::Controlnet,
            Some("sd1"),
            Some(Naming::Ldm),
        ),
        (
            "control diffusers",
            &[
                ("controlnet_cond_embedding.conv_in.weight", &[16, 3, 3, 3]),
                (
                    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight",
                    &[640, 2048],
                ),
            ],
            Kind::Controlnet,
            Some("sdxl"),
            Some(Naming::Diffusers),
        ),
        (
            "control lora",
            &[
                ("lora_controlnet", &[0]),
                ("input_hint_block.0.weight", &[16, 3, 3, 3]),
                (
                    "input_blocks.4.1.transformer_blocks.0.attn2.to_k.down",
                    &[8, 2048],
                ),
            ],
            Kind::ControlLora,
            Some("sdxl"),
            Some(Naming::Ldm),
        ),
        (
            "esrgan",
            &[
                ("conv_first.weight", &[64, 3, 3, 3]),
                ("body.0.rdb1.conv1.weight", &[32, 64, 3, 3]),
            ],
            Kind::Upscaler,
            None,
            None,
        ),
        (
            "old esrgan",
            &[
                ("model.0.weight", &[64, 3, 3, 3]),
                ("model.1.sub.0.RDB1.conv1.0.weight", &[32, 64, 3, 3]),
            ],
            Kind::Upscaler,
            None,
            None,
        ),
        (
            "compact",
            &[("body.0.weight", &[64, 3, 3, 3]), ("body.1.weight", &[64])],
            Kind::Upscaler,
            None,
            None,
        ),
        (
            "image prompts",
            &[
                ("image_proj.proj.weight", &[8192, 1280]),
                ("ip_adapter.1.to_k_ip.weight", &[640, 2048]),
            ],
            Kind::IpAdapter,
            Some("sdxl"),
            None,
        ),
        (
            "motion",
            &[(
                "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight",
                &[320],
            )],
            Kind::Unknown,
            None,
            None,
        ),
        (
            "nothing",
            &[("fc.weight", &[10, 10])],
            Kind::Unknown,
            None,
            None,
        ),
        ("none", &[], Kind::Unknown, None, None),
    ];
    for (name, list, kind, family, layout) in rows {
        let found = folder.inspect("file.safetensors", &tensors(list));
        let said = (found.kind, found.family.as_deref());
        assert_eq!(said, (*kind, *family), "{name}");
        if layout.is_some() {
            assert_eq!(found.layout, *layout, "{name}");
        }
        assert_eq!(found.missing, [""; 0], "{name}");
        let is_clear = family.is_some() || *kind == Kind::Upscaler;
        assert_eq!(
            found.ambiguous.is_empty(),
            is_clear,
            "{name}: {:?}",
            found.ambiguous
        );
    }
    let face: &[(&str, &[usize])] = &[
        (
            "image_proj.perceiver_resampler.proj_in.weight",
            &[768, 1280],
        ),
        ("ip_adapter.1.to_k_ip.weight", &[320, 768]),
        ("ip_adapter.0.to_q_lora.down.weight", &[128, 320]),
    ];
    let found = folder.inspect("face.safetensors", &tensors(face));
    assert_eq!(
        (found.kind, found.family.as_deref()),
        (Kind::IpAdapter, Some("sd1"))
    );
    assert!(
        found.ambiguous[0].contains("FaceID"),
        "{:?}",
        found.ambiguous
    );
    let path = sd_fixtures::path("checkpoints/embedding.pt");
    let found = inspect(path).unwrap();
    assert_eq!(found.kind, Kind::TextualInversion);
}

#[test]
fn a_folder_is_said_to_be_what_its_index_says() {
    let folder = Folder::new();
    let index = json!({
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [null, null],
    });
    std::fs::write(folder.path("model_index.json"), index.to_string()).unwrap();
    for (name, list, file) in [
        (
            "unet",
            "unet-sd21",
            "diffusion_pytorch_model.fp16.safetensors",
        ),
        ("vae", "vae-sd", "diffusion_pytorch_model.safetensors"),
        ("text_encoder", "clip-h", "model.safetensors"),
    ] {
        std::fs::create_dir(folder.path(name)).unwrap();
        let tensors = sd_fixtures::tensors(&format!("diffusers/{list}"));
        write(&folder.path(name).join(file), &tensors, json!({}));
    }
    std::fs::create_dir(folder.path("scheduler")).unwrap();
    let config = json!({"beta_start": 0.00085, "prediction_type": "v_prediction", "rescale_betas_zero_snr": true});
    std::fs::write(
        folder.path("scheduler/scheduler_config.json"),
        config.to_string(),
    )
    .unwrap();
    let found = inspect(folder.path("")).unwrap();
    let said = (
        found.kind,
        found.family.as_deref(),
        found.prediction,
        found.layout,
    );
    assert_eq!(said, (Kind::Model, Some("sd2"), V, Some(Naming::Diffusers)));
    assert_eq!(found.components, ["text_encoder", "unet", "vae"]);
    assert_eq!((found.missing, found.ambiguous), (vec![], vec![]));
    assert!(found.zero_terminal_snr);
    let unet = inspect(folder.path("unet")).unwrap();
    assert_eq!((unet.kind, unet.prediction), (Kind::Unet, None));
    std::fs::remove_dir_all(folder.path("vae")).unwrap();
    assert_eq!(inspect(folder.path("")).unwrap().missing, ["vae"]);
    assert!(inspect(folder.path("scheduler")).is_err());
}

#[test]
fn the_report_has_the_fields_that_scripts_read() {
    let folder = Folder::new();
    let found = folder.inspect(
        "model.safetensors",
        &sd_fixtures::tensors("ldm/sdxl-vpred-ztsnr-markers"),
    );
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["kind"], "model");
    assert_eq!(json["family"], "sdxl");
    assert_eq!(json["layout"], "ldm");
    assert_eq!(json["prediction"], "v_prediction");
    assert_eq!(json["dtypes"], json!({"F16": 2514, "F32": 2, "I64": 1}));
    assert_eq!(json["parameters"], 3_468_837_868_u64);
    assert_eq!(json["components"], json!(SDXL));
    assert_eq!(
        (&json["missing"], &json["ambiguous"]),
        (&json!([]), &json!([]))
    );
    assert_eq!(serde_json::from_value::<Inspection>(json).unwrap(), found);
}
