//! The settings of the published models with narrow tensors, in both layouts.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Family, GROUPS, tokenizer};

/// Channels at each resolution, of the U-Net and of the autoencoder, in this ratio to the first.
const RATIO: [usize; 4] = [1, 2, 3, 3];
const CHANNELS: usize = 4;
/// Width of the prompt's tokens.
const WIDTH: usize = 16;
/// Side of a latent; pictures are 128×128.
const SIDE: usize = 16;
const SCALING_FACTOR: f64 = 0.18215;

fn channels() -> [usize; 4] {
    RATIO.map(|ratio| ratio * CHANNELS)
}

/// The JSON files of diffusers' layout, without the tokenizer's.
pub(super) fn files(family: Family) -> BTreeMap<String, Vec<u8>> {
    [
        ("model_index.json", index(family)),
        ("scheduler/scheduler_config.json", scheduler(family)),
        ("text_encoder/config.json", text_encoder(family)),
        ("unet/config.json", unet(family)),
        ("vae/config.json", vae()),
    ]
    .map(|(name, settings)| (name.into(), bytes(settings)))
    .into()
}

/// A JSON file with its settings in alphabetical order, whichever order `serde_json` keeps.
pub(super) fn bytes(settings: Value) -> Vec<u8> {
    let Value::Object(settings) = settings else {
        unreachable!("a file of settings is an object")
    };
    let sorted: BTreeMap<String, Value> = settings.into_iter().collect();
    serde_json::to_vec_pretty(&sorted).expect("JSON can be written")
}

fn index(family: Family) -> Value {
    let scheduler = match family {
        Family::Sd1 => "PNDMScheduler",
        Family::Sd2 => "DDIMScheduler",
    };
    json!({
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [null, null],
        "requires_safety_checker": false,
        "safety_checker": [null, null],
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    })
}

fn scheduler(family: Family) -> Value {
    let (class, prediction) = match family {
        Family::Sd1 => ("PNDMScheduler", "epsilon"),
        Family::Sd2 => ("DDIMScheduler", "v_prediction"),
    };
    json!({
        "_class_name": class,
        "_diffusers_version": "0.42.1",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": false,
        "num_train_timesteps": 1000,
        "prediction_type": prediction,
        "set_alpha_to_one": false,
        "skip_prk_steps": true,
        "steps_offset": 1,
        "trained_betas": null,
    })
}

/// Layers of the text encoder. Stable Diffusion 2 leaves OpenCLIP's last one out.
pub(super) fn text_layers(family: Family) -> usize {
    match family {
        Family::Sd1 => 12,
        Family::Sd2 => 23,
    }
}

pub(super) fn text_encoder(family: Family) -> Value {
    let activation = match family {
        Family::Sd1 => "quick_gelu",
        Family::Sd2 => "gelu",
    };
    json!({
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer::COUNT - 2,
        "dropout": 0.0,
        "eos_token_id": tokenizer::COUNT - 1,
        "hidden_act": activation,
        "hidden_size": WIDTH,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 2 * WIDTH,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 2,
        "num_hidden_layers": text_layers(family),
        "pad_token_id": tokenizer::pad(family).1,
        "projection_dim": WIDTH,
        "torch_dtype": "float16",
        "vocab_size": tokenizer::COUNT,
    })
}

pub(super) fn unet(family: Family) -> Value {
    // diffusers calls the number of heads their dimension. Stable Diffusion 1 has as many at every
    // resolution, Stable Diffusion 2 heads of one width.
    let (heads, linear) = match family {
        Family::Sd1 => (json!(2), false),
        Family::Sd2 => (json!(RATIO), true),
    };
    json!({
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.42.1",
        "act_fn": "silu",
        "attention_head_dim": heads,
        "block_out_channels": channels(),
        "center_input_sample": false,
        "cross_attention_dim": WIDTH,
        "down_block_types": [
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ],
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": GROUPS,
        "out_channels": 4,
        "sample_size": SIDE,
        "up_block_types": [
            "UpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
        ],
        "use_linear_projection": linear,
    })
}

pub(super) fn vae() -> Value {
    json!({
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.42.1",
        "act_fn": "silu",
        "block_out_channels": channels(),
        "down_block_types": (["DownEncoderBlock2D"; 4]),
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": GROUPS,
        "out_channels": 3,
        "sample_size": 8 * SIDE,
        "scaling_factor": SCALING_FACTOR,
        "up_block_types": (["UpDecoderBlock2D"; 4]),
    })
}

/// The configuration of the original code, as its `v1-inference.yaml` and `v2-inference-v.yaml`.
pub(super) fn yaml(family: Family) -> String {
    let (parameterization, heads, linear, encoder) = match family {
        Family::Sd1 => ("eps", "num_heads: 2", false, "FrozenCLIPEmbedder"),
        Family::Sd2 => ("v", "num_head_channels: 4", true, "FrozenOpenCLIPEmbedder"),
    };
    let side = 8 * SIDE;
    format!(
        "\
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    timesteps: 1000
    parameterization: {parameterization}
    scale_factor: {SCALING_FACTOR}
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: {SIDE}
        in_channels: 4
        out_channels: 4
        model_channels: {CHANNELS}
        attention_resolutions: [4, 2, 1]
        num_res_blocks: 2
        channel_mult: {RATIO:?}
        {heads}
        use_spatial_transformer: true
        use_linear_in_transformer: {linear}
        transformer_depth: 1
        context_dim: {WIDTH}
        legacy: false
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        ddconfig:
          double_z: true
          z_channels: 4
          resolution: {side}
          in_channels: 3
          out_ch: 3
          ch: {CHANNELS}
          ch_mult: {RATIO:?}
          num_res_blocks: 2
          attn_resolutions: []
          dropout: 0.0
    cond_stage_config:
      target: ldm.modules.encoders.modules.{encoder}
"
    )
}
