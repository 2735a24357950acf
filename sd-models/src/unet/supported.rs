//! Settings of a `UNet2DConditionModel` that are implemented.

use crate::{ConfigFile, Result};

/// Settings that are read, and settings that change nothing once a model is trained or as long as
/// others have the only values accepted here.
const KNOWN: &[&str] = &[
    "act_fn",
    "addition_embed_type",
    "addition_embed_type_num_heads",
    "addition_time_embed_dim",
    "attention_head_dim",
    "block_out_channels",
    "center_input_sample",
    "conv_in_kernel",
    "conv_out_kernel",
    "cross_attention_dim",
    "down_block_types",
    "downsample_padding",
    "dropout",
    "flip_sin_to_cos",
    "freq_shift",
    "in_channels",
    "layers_per_block",
    "mid_block_only_cross_attention",
    "mid_block_scale_factor",
    "mid_block_type",
    "norm_eps",
    "norm_num_groups",
    "num_class_embeds",
    "only_cross_attention",
    "out_channels",
    "projection_class_embeddings_input_dim",
    "resnet_time_scale_shift",
    "reverse_transformer_layers_per_block",
    "sample_size",
    "time_cond_proj_dim",
    "time_embedding_dim",
    "transformer_layers_per_block",
    "up_block_types",
    "upcast_attention",
    // The linear and the convolutional projection are one map, stored in two shapes.
    "use_linear_projection",
];

/// Settings that may have these values only; `null` and `false` go without saying.
const FIXED: &[(&str, &[&str])] = &[
    ("attention_type", &["\"default\""]),
    ("class_embed_type", &[]),
    ("class_embeddings_concat", &[]),
    ("cross_attention_norm", &[]),
    ("dual_cross_attention", &[]),
    ("encoder_hid_dim", &[]),
    ("encoder_hid_dim_type", &[]),
    // diffusers refuses this one too: by its number of heads it means the width of a head.
    ("num_attention_heads", &[]),
    ("quantization_config", &[]),
    ("resnet_out_scale_factor", &["1.0", "1"]),
    ("resnet_skip_time_act", &[]),
    ("time_embedding_act_fn", &[]),
    ("time_embedding_type", &["\"positional\""]),
    ("timestep_post_act", &[]),
];

pub(super) fn check(file: &ConfigFile) -> Result<()> {
    file.refuse_others(KNOWN, FIXED)?;
    match file.text("_class_name")?.as_deref() {
        None | Some("UNet2DConditionModel") => {}
        Some(_) => return Err(file.unsupported("_class_name")),
    }
    // To diffusers these say something else as null than absent: no normalisation, no prompt.
    for field in ["norm_num_groups", "cross_attention_dim"] {
        if file.is_null(field) {
            return Err(file.unsupported(field));
        }
    }
    match file.text("act_fn")?.as_deref() {
        None | Some("silu" | "swish") => Ok(()),
        Some(_) => Err(file.unsupported("act_fn")),
    }
}
