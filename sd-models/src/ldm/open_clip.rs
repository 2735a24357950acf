use super::{Layout, Storage};
use crate::ClipTextConfig;

/// Tensors and modules outside the layers.
const OUTER: &[(&str, &str)] = &[
    ("embeddings.token_embedding", "token_embedding"),
    (
        "embeddings.position_embedding.weight",
        "positional_embedding",
    ),
    ("final_layer_norm", "ln_final"),
];

/// Modules of a layer.
const LAYER: &[(&str, &str)] = &[
    ("layer_norm1", "ln_1"),
    ("self_attn.out_proj", "attn.out_proj"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
];

/// Projections of a layer in the order in which `attn.in_proj` has their rows.
const IN_PROJ: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

impl Layout {
    /// Table of a text encoder that a file holds as OpenCLIP has it, as those of Stable Diffusion 2,
    /// of SDXL's refiner and SDXL's second. Only what the configuration uses has a row: not the
    /// layers behind the last one, nor, without a projection, `text_projection`, nor
    /// `logit_scale`, which only pictures need.
    pub fn open_clip(config: &ClipTextConfig) -> Self {
        let mut table = Self::new();
        table.rows_in("", "model", OUTER);
        if config.projection.is_some() {
            let [ours, theirs] = ["text_projection.weight", "model.text_projection"];
            table.row(ours, theirs, Storage::Transposed);
        }
        for i in 0..config.num_hidden_layers {
            let ours = format!("encoder.layers.{i}");
            let theirs = format!("model.transformer.resblocks.{i}");
            table.rows_in(&ours, &theirs, LAYER);
            for (part, projection) in IN_PROJ.into_iter().enumerate() {
                for tensor in ["weight", "bias"] {
                    table.row(
                        format!("{ours}.self_attn.{projection}.{tensor}"),
                        format!("{theirs}.attn.in_proj_{tensor}"),
                        Storage::Rows { part, of: 3 },
                    );
                }
            }
        }
        table
    }
}
