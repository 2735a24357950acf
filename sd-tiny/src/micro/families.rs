//! The families: what the files of each say, beside what every file of a class says
//! ([`super::config`]).

use serde_json::{Value, json};

use super::Family;
use super::config::{SIDE, TEXT, TEXT_1, TEXT_2, channels};

/// A row of the table: the family that this one descends from, and what its folder's files say
/// otherwise, by component. The files of a component whose entry in `index` is null are not there.
pub(super) struct Row {
    pub(super) parent: Option<Family>,
    pub(super) files: Value,
}

/// Blocks on the way down and on the way up, without and with transformers.
const D: &str = "DownBlock2D";
const CD: &str = "CrossAttnDownBlock2D";
const U: &str = "UpBlock2D";
const CU: &str = "CrossAttnUpBlock2D";

/// Sines and cosines of each size and crop in SDXL's added embedding.
const SINES: usize = 8;

pub(super) fn row(family: Family) -> Row {
    use Family as F;
    // The published widths are as 1 to 2 to 4; the widest takes most of the bytes.
    let [four, three] = [&[1, 2, 3, 3][..], &[1, 2, 3]].map(channels);
    let (parent, files) = match family {
        F::Sd1 => (
            None,
            json!({
                "index": {
                    "_class_name": "StableDiffusionPipeline",
                    "feature_extractor": [null, null],
                    "requires_safety_checker": false,
                    "safety_checker": [null, null],
                    "scheduler": ["diffusers", "PNDMScheduler"],
                    "text_encoder": ["transformers", "CLIPTextModel"],
                    "tokenizer": ["transformers", "CLIPTokenizer"],
                    "unet": ["diffusers", "UNet2DConditionModel"],
                    "vae": ["diffusers", "AutoencoderKL"],
                },
                "text_encoder": { "hidden_act": "quick_gelu", "num_hidden_layers": 12 },
                "unet": {
                    "attention_head_dim": 2,
                    "block_out_channels": four,
                    "cross_attention_dim": TEXT,
                    "down_block_types": [CD, CD, CD, D],
                    "up_block_types": [U, CU, CU, CU],
                    "use_linear_projection": false,
                },
                "vae": { "scaling_factor": 0.18215 },
            }),
        ),
        // Of OpenCLIP's layers the last is left out; its padding is its token 0.
        F::Sd2 => (
            Some(F::Sd1),
            json!({
                "index": { "scheduler": ["diffusers", "DDIMScheduler"] },
                "scheduler": { "prediction_type": "v_prediction" },
                "text_encoder": { "hidden_act": "gelu", "num_hidden_layers": 23, "pad_token_id": 0 },
                "unet": { "attention_head_dim": [1, 2, 3, 3], "use_linear_projection": true },
            }),
        ),
        F::SdTurbo => (
            Some(F::Sd2),
            json!({
                "index": { "scheduler": ["diffusers", "EulerDiscreteScheduler"] },
                "scheduler": {
                    "interpolation_type": "linear",
                    "prediction_type": "epsilon",
                    "timestep_spacing": "trailing",
                    "use_karras_sigmas": false,
                },
            }),
        ),
        F::Sd1Inpaint => (
            Some(F::Sd1),
            json!({
                "index": { "_class_name": "StableDiffusionInpaintPipeline" },
                "unet": { "in_channels": 9 },
            }),
        ),
        F::Sd2Inpaint => (
            Some(F::Sd2),
            json!({
                "index": {
                    "_class_name": "StableDiffusionInpaintPipeline",
                    "scheduler": ["diffusers", "PNDMScheduler"],
                },
                "scheduler": { "prediction_type": "epsilon" },
                "unet": { "in_channels": 9 },
            }),
        ),
        F::InstructPix2Pix => (
            Some(F::Sd1),
            json!({
                "index": { "_class_name": "StableDiffusionInstructPix2PixPipeline" },
                "unet": { "in_channels": 8 },
            }),
        ),
        F::Lcm => (
            Some(F::Sd1),
            json!({
                "index": {
                    "_class_name": "LatentConsistencyModelPipeline",
                    "scheduler": ["diffusers", "LCMScheduler"],
                },
                "scheduler": {
                    "original_inference_steps": 50,
                    "set_alpha_to_one": true,
                    "timestep_scaling": 10.0,
                    "timestep_spacing": "leading",
                },
                "unet": { "time_cond_proj_dim": 16 },
            }),
        ),
        F::SmallSd => (
            Some(F::Sd1),
            json!({
                "index": { "scheduler": ["diffusers", "DPMSolverMultistepScheduler"] },
                "scheduler": { "algorithm_type": "dpmsolver++", "solver_order": 2 },
                "unet": { "layers_per_block": 1 },
            }),
        ),
        F::TinySd => (
            Some(F::SmallSd),
            json!({
                "unet": {
                    "block_out_channels": three,
                    "down_block_types": [CD, CD, CD],
                    "mid_block_type": null,
                    "up_block_types": [CU, CU, CU],
                },
            }),
        ),
        F::Sdxs => (
            Some(F::TinySd),
            json!({
                "index": {
                    "scheduler": ["diffusers", "DEISMultistepScheduler"],
                    "vae": ["diffusers", "AutoencoderTiny"],
                },
                "scheduler": { "algorithm_type": "deis", "solver_type": "logrho" },
                "unet": { "down_block_types": [D, CD, CD], "up_block_types": [CU, CU, U] },
            }),
        ),
        // In its finest block both attentions of each transformer look at the prompt.
        F::Sdxs09 => (
            Some(F::Sdxs),
            json!({
                "index": { "scheduler": ["diffusers", "EulerDiscreteScheduler"] },
                "scheduler": {},
                "text_encoder": { "hidden_act": "gelu", "num_hidden_layers": 23, "pad_token_id": 0 },
                "unet": {
                    "attention_head_dim": [1, 2, 3],
                    "down_block_types": [CD, CD, CD],
                    "only_cross_attention": [true, false, false],
                    "up_block_types": [CU, CU, CU],
                    "use_linear_projection": true,
                },
            }),
        ),
        F::Sdxl => (
            None,
            json!({
                "index": {
                    "_class_name": "StableDiffusionXLPipeline",
                    "feature_extractor": [null, null],
                    "force_zeros_for_empty_prompt": true,
                    "image_encoder": [null, null],
                    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
                    "text_encoder": ["transformers", "CLIPTextModel"],
                    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
                    "tokenizer": ["transformers", "CLIPTokenizer"],
                    "tokenizer_2": ["transformers", "CLIPTokenizer"],
                    "unet": ["diffusers", "UNet2DConditionModel"],
                    "vae": ["diffusers", "AutoencoderKL"],
                },
                "scheduler": {
                    "interpolation_type": "linear",
                    "sample_max_value": 1.0,
                    "timestep_spacing": "leading",
                    "use_karras_sigmas": false,
                },
                "text_encoder": {
                    "hidden_act": "quick_gelu",
                    "hidden_size": TEXT_1,
                    "intermediate_size": 2 * TEXT_1,
                    "num_hidden_layers": 12,
                    "projection_dim": TEXT_1,
                },
                "text_encoder_2": {
                    "hidden_act": "gelu",
                    "hidden_size": TEXT_2,
                    "intermediate_size": 2 * TEXT_2,
                    "num_hidden_layers": 32,
                    "pad_token_id": 0,
                    "projection_dim": TEXT_2,
                },
                "unet": {
                    "addition_embed_type": "text_time",
                    "addition_embed_type_num_heads": 64,
                    "addition_time_embed_dim": SINES,
                    "attention_head_dim": [1, 2, 3],
                    "block_out_channels": three,
                    "class_embed_type": null,
                    "cross_attention_dim": TEXT_1 + TEXT_2,
                    "down_block_types": [D, CD, CD],
                    "encoder_hid_dim": null,
                    "mid_block_only_cross_attention": null,
                    "mid_block_type": "UNetMidBlock2DCrossAttn",
                    "num_attention_heads": null,
                    "projection_class_embeddings_input_dim": TEXT_2 + 6 * SINES,
                    "resnet_time_scale_shift": "default",
                    "time_cond_proj_dim": null,
                    "transformer_layers_per_block": [1, 2, 10],
                    "up_block_types": [CU, CU, U],
                    "upcast_attention": null,
                    "use_linear_projection": true,
                },
                "vae": { "force_upcast": true, "scaling_factor": 0.13025 },
            }),
        ),
        F::SdxlRefiner => (
            Some(F::Sdxl),
            json!({
                "index": {
                    "_class_name": "StableDiffusionXLImg2ImgPipeline",
                    "force_zeros_for_empty_prompt": false,
                    "requires_aesthetics_score": true,
                    "text_encoder": [null, null],
                    "tokenizer": [null, null],
                },
                "unet": {
                    "attention_head_dim": [1, 2, 3, 3],
                    "block_out_channels": four,
                    "cross_attention_dim": TEXT_2,
                    "down_block_types": [D, CD, CD, D],
                    "projection_class_embeddings_input_dim": TEXT_2 + 5 * SINES,
                    "transformer_layers_per_block": 4,
                    "up_block_types": [U, CU, CU, U],
                },
            }),
        ),
        F::SdxlInpaint => (
            Some(F::Sdxl),
            json!({
                "index": { "_class_name": "StableDiffusionXLInpaintPipeline" },
                // What its trainer left behind.
                "unet": { "decay": 0.9999, "in_channels": 9, "use_ema_warmup": false },
                "vae": { "force_upcast": false },
            }),
        ),
        F::SdxlTurbo => (
            Some(F::Sdxl),
            json!({
                "index": { "scheduler": ["diffusers", "EulerAncestralDiscreteScheduler"] },
                "scheduler": { "timestep_spacing": "trailing" },
                "unet": { "sample_size": SIDE / 2 },
            }),
        ),
        F::SdxlLightning => (
            Some(F::Sdxl),
            json!({ "scheduler": { "timestep_spacing": "trailing" } }),
        ),
        F::LcmXl => (
            Some(F::Sdxl),
            json!({
                "index": { "scheduler": ["diffusers", "LCMScheduler"] },
                "scheduler": {
                    "original_inference_steps": 50,
                    "set_alpha_to_one": true,
                    "timestep_scaling": 10.0,
                },
                "unet": { "time_cond_proj_dim": 16 },
            }),
        ),
        F::Ssd1b => (
            Some(F::Sdxl),
            json!({
                "unet": {
                    "mid_block_type": "UNetMidBlock2D",
                    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], [0, 0, 0]],
                    "transformer_layers_per_block": [[0, 0], [2, 2], [4, 4]],
                },
            }),
        ),
        F::Vega => (
            Some(F::Sdxl),
            json!({
                "unet": {
                    "mid_block_type": "UNetMidBlock2D",
                    "reverse_transformer_layers_per_block": [[2, 2, 2], [1, 1, 1], 0],
                    "transformer_layers_per_block": [[0, 0], [1, 1], [2, 2]],
                },
            }),
        ),
        F::Koala700m => (
            Some(F::Sdxl),
            json!({
                "unet": {
                    "layers_per_block": 1,
                    "mid_block_type": null,
                    "transformer_layers_per_block": [0, 2, 5],
                },
            }),
        ),
        F::Koala1b => (
            Some(F::Koala700m),
            json!({
                "unet": {
                    "mid_block_type": "UNetMidBlock2DCrossAttn",
                    "transformer_layers_per_block": [0, 2, 6],
                },
            }),
        ),
        F::SdxlInstructPix2Pix => (
            Some(F::Sdxl),
            json!({
                "index": { "_class_name": "StableDiffusionXLInstructPix2PixPipeline" },
                "unet": { "in_channels": 8 },
            }),
        ),
    };
    Row { parent, files }
}
