//! Text encoders: CLIP as transformers and OpenCLIP have it, T5.

use std::collections::BTreeMap;

use super::blocks::{holes, numbers, pairs};
use super::parts::{Part, Role};
use crate::weights::TensorInfo;

/// One way of naming a CLIP text encoder's tensors.
pub(crate) struct Spelling {
    pub(crate) table: &'static str,
    pub(crate) positions: &'static str,
    pub(crate) layers: &'static str,
    /// Modules of a layer.
    modules: &'static [&'static str],
    /// The first layer of a feed-forward network.
    pub(crate) inner: &'static str,
    /// Tensors of a layer that are called otherwise.
    others: &'static [&'static str],
    pub(crate) norm: &'static str,
}

const SPELLINGS: &[Spelling] = &[
    Spelling {
        table: "embeddings.token_embedding.weight",
        positions: "embeddings.position_embedding.weight",
        layers: "encoder.layers.",
        modules: &[
            "layer_norm1",
            "layer_norm2",
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.out_proj",
            "mlp.fc1",
            "mlp.fc2",
        ],
        inner: "mlp.fc1",
        others: &[],
        norm: "final_layer_norm",
    },
    Spelling {
        table: "token_embedding.weight",
        positions: "positional_embedding",
        layers: "transformer.resblocks.",
        modules: &["ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj"],
        inner: "mlp.c_fc",
        others: &["attn.in_proj_weight", "attn.in_proj_bias"],
        norm: "ln_final",
    },
];

/// The way a part is spelt, and the prefix within it.
pub(crate) fn spelling_of(part: &Part<'_>) -> Option<(&'static Spelling, &'static str)> {
    spelling(|start| part.any(start))
}

fn spelling(has: impl Fn(&str) -> bool) -> Option<(&'static Spelling, &'static str)> {
    let prefixes = ["", "text_model."];
    SPELLINGS.iter().find_map(|spelling| {
        let prefix = prefixes.iter().find(|prefix| {
            has(&format!(
                "{prefix}{}0.{}",
                spelling.layers, spelling.modules[0]
            )) || has(&format!("{prefix}{}", spelling.table))
        });
        prefix.map(|prefix| (spelling, *prefix))
    })
}

const T5: &str = "encoder.block.";
/// The same as llama.cpp names it.
const T5_GGUF: &str = "enc.blk.";

pub(crate) fn is_text(tensors: &BTreeMap<&str, &TensorInfo>) -> bool {
    let has = |start: &str| {
        tensors
            .range(start..)
            .next()
            .is_some_and(|(name, _)| name.starts_with(start))
    };
    // A vision model has layers of the same names, and no table of tokens.
    let is_vision = has("vision_model.") || has("visual.");
    has(T5) || has(T5_GGUF) || spelling(has).is_some() && !is_vision
}

/// Width of a token.
pub(crate) fn width(part: &Part<'_>) -> Option<usize> {
    let t5 = part
        .side("shared.weight", 1)
        .or(part.side("token_embd.weight", 1));
    t5.or_else(|| {
        let (spelling, prefix) = spelling_of(part)?;
        part.side(&format!("{prefix}{}", spelling.table), 1)
            .or_else(|| part.side(&format!("{prefix}{}.weight", spelling.norm), 0))
    })
}

/// Tensors of a text encoder that are not there.
pub(crate) fn missing(part: &Part<'_>, family: Option<&str>) -> Vec<String> {
    if part.any(T5) {
        let found = numbers(part, T5);
        let mut missing = holes(part, T5, &found);
        missing.extend(part.absent([
            "shared.weight".into(),
            "encoder.final_layer_norm.weight".into(),
        ]));
        return missing;
    }
    let Some((spelling, prefix)) = spelling_of(part) else {
        return Vec::new();
    };
    let layers = format!("{prefix}{}", spelling.layers);
    let found = numbers(part, &layers);
    let mut missing = holes(part, &layers, &found);
    // The layers that are used: the last of SD 2's encoder is not, nor of SDXL's first.
    let used = match (width(part), family) {
        (Some(768), Some("sdxl" | "ssd_1b" | "vega" | "koala" | "lcm_sdxl")) => 11,
        (Some(768), _) => 12,
        (Some(1024), _) => 23,
        (Some(1280), _) => 32,
        _ => 0,
    };
    let last = found.last().map_or(0, |last| last + 1);
    missing.extend((last..used).map(|number| format!("{}{layers}{number}", part.prefix)));
    let outer = [spelling.table, spelling.positions].map(|name| format!("{prefix}{name}"));
    let mut expected = Vec::from(outer);
    let is_first = part.role == Role::Text(0);
    if !(is_first && used == 11) {
        expected.extend(pairs(prefix, &[spelling.norm]));
    }
    for number in found {
        let layer = format!("{layers}{number}.");
        expected.extend(pairs(&layer, spelling.modules));
        expected.extend(spelling.others.iter().map(|name| format!("{layer}{name}")));
    }
    missing.extend(part.absent(expected));
    missing
}
