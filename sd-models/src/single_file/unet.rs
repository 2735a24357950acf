//! Settings of a U-Net that its tensors' shapes tell, and its tensors' names.

use serde_json::{Map, Value};

use super::families::Heads;
use super::names::{Entries, Numbers};
use crate::inspect::Naming;
use crate::inspect::parts::Part;
use crate::inspect::unet::{Layer, Structure, Way, structure};
use crate::ldm::Layout;
use crate::unet::UNetConfig;
use crate::{ConfigFile, Result};

/// Names of what is outside the blocks: the original code's, and diffusers'.
struct Outer {
    conv_in: &'static str,
    conv_out: &'static str,
    time: &'static str,
    added: &'static str,
    labels: &'static str,
    /// The first convolution of a residual block.
    first: &'static str,
}

const ORIGINAL: Outer = Outer {
    conv_in: "input_blocks.0.0.weight",
    conv_out: "out.2.weight",
    time: "time_embed.0.weight",
    added: "label_emb.0.0.weight",
    labels: "label_emb.weight",
    first: "in_layers.2.weight",
};

const DIFFUSERS: Outer = Outer {
    conv_in: "conv_in.weight",
    conv_out: "conv_out.weight",
    time: "time_embedding.linear_1.weight",
    added: "add_embedding.linear_1.weight",
    labels: "class_embedding.weight",
    first: "conv1.weight",
};

/// A U-Net's settings, of which heads are counted as `heads` says.
pub(crate) fn settings(part: &Part<'_>, heads: Heads) -> Map<String, Value> {
    let structure = structure(part);
    let names = match part.layout {
        Naming::Ldm => &ORIGINAL,
        _ => &DIFFUSERS,
    };
    let channels: Vec<usize> = (structure.down.iter())
        .filter_map(|block| part.side(&format!("{}{}", block.first()?.resnet, names.first), 0))
        .collect();
    let layers: Vec<usize> = structure.down.iter().map(Vec::len).collect();
    let cross = cross_width(part);
    let mut settings = Map::new();
    let mut set = |name: &str, value: Value| drop(settings.insert(name.into(), value));
    set("_class_name", "UNet2DConditionModel".into());
    set("in_channels", part.side(names.conv_in, 1).into());
    set("conv_in_kernel", kernel(part, names.conv_in).into());
    set("out_channels", part.side(names.conv_out, 0).into());
    set("conv_out_kernel", kernel(part, names.conv_out).into());
    set("block_out_channels", channels.clone().into());
    set("layers_per_block", one_or_all(&layers));
    set("cross_attention_dim", cross.into());
    set("down_block_types", types(&structure.down, "Down"));
    set("up_block_types", types(&structure.up, "Up"));
    let [down, up] = depths(&structure);
    set("transformer_layers_per_block", down);
    set("reverse_transformer_layers_per_block", up);
    if let Some(width) = part.side(names.time, 0)
        && Some(width) != channels.first().map(|c| 4 * c)
    {
        set("time_embedding_dim", width.into());
    }
    match structure.middle.first() {
        None => set("mid_block_type", Value::Null),
        Some(middle) if middle.depth == 0 => set("mid_block_type", "UNetMidBlock2D".into()),
        Some(_) => {}
    }
    if let Some(width) = part.side(names.added, 1) {
        set("addition_embed_type", "text_time".into());
        set("projection_class_embeddings_input_dim", width.into());
    }
    if let Some(labels) = part.side(names.labels, 0) {
        set("num_class_embeds", labels.into());
    }
    if let Some(width) = part.side("time_embedding.cond_proj.weight", 1) {
        set("time_cond_proj_dim", width.into());
    }
    let ways = structure.down.iter().chain(&structure.up).flatten();
    let first = ways.chain(&structure.middle).find(|l| l.depth > 0);
    if let Some(first) = first {
        let weight = format!("{}proj_in.weight", first.transformer);
        let is_linear = part
            .tensors
            .get(&*weight)
            .is_some_and(|t| t.shape.len() == 2);
        set("use_linear_projection", is_linear.into());
    }
    let only: Vec<bool> = (structure.down.iter())
        .map(|block| block.iter().any(|l| sees_the_prompt_only(part, l, cross)))
        .collect();
    if only.contains(&true) {
        set("only_cross_attention", only.into());
    }
    let counts: Vec<usize> = (channels.iter())
        .map(|channels| match heads {
            Heads::Count(count) => count,
            Heads::Width(width) => (channels / width).max(1),
        })
        .collect();
    set("attention_head_dim", one_or_all(&counts));
    // What is not told is not said; no middle is.
    settings.retain(|name, value| !value.is_null() || name == "mid_block_type");
    settings
}

/// Names by diffusers of a U-Net's tensors, whose configuration is `file`.
pub(super) fn names(part: &Part<'_>, numbers: &Numbers<'_>, file: &ConfigFile) -> Result<Entries> {
    if part.layout != Naming::Ldm {
        return Ok(numbers.kept(part));
    }
    let layout = Layout::unet(&UNetConfig::new(file)?, structure(part).numbering);
    Ok(numbers.renamed(part, &layout))
}

/// Width of the prompt's tokens.
pub(crate) fn cross_width(part: &Part<'_>) -> Option<usize> {
    let mut tensors = part.tensors.iter();
    let (_, tensor) = tensors.find(|(name, _)| name.ends_with("attn2.to_k.weight"))?;
    tensor.shape.get(1).copied()
}

fn kernel(part: &Part<'_>, conv: &str) -> usize {
    part.side(conv, 2).unwrap_or(3)
}

fn types(way: &Way, direction: &str) -> Value {
    let name = |block: &Vec<Layer>| match block.iter().any(|layer| layer.depth > 0) {
        true => format!("CrossAttn{direction}Block2D"),
        false => format!("{direction}Block2D"),
    };
    way.iter().map(name).collect()
}

/// A number that all have, or each one's.
fn one_or_all(numbers: &[usize]) -> Value {
    match numbers {
        [first, rest @ ..] if rest.iter().all(|n| n == first) => (*first).into(),
        numbers => numbers.into(),
    }
}

/// Depths of the transformers on the way down and on the way up. Where there are none the middle's
/// depth stands at the coarsest resolution, as diffusers reads it there, and 1 at others.
fn depths(structure: &Structure) -> [Value; 2] {
    let middle = structure.middle.first().map_or(0, |layer| layer.depth);
    let absent = |is_coarsest: bool| match is_coarsest {
        true => middle.max(1),
        false => 1,
    };
    let of = |block: &Vec<Layer>, is_coarsest| match block.iter().any(|layer| layer.depth > 0) {
        true => one_or_all(&block.iter().map(|layer| layer.depth).collect::<Vec<_>>()),
        false => absent(is_coarsest).into(),
    };
    let last = structure.down.len().saturating_sub(1);
    let blocks = structure.down.iter().enumerate();
    let down: Vec<Value> = blocks.map(|(i, block)| of(block, i == last)).collect();
    let blocks = structure.up.iter().enumerate();
    let up: Vec<Value> = blocks.map(|(i, block)| of(block, i == 0)).collect();
    let is_mirrored = up.iter().rev().eq(&down) && !down.iter().any(Value::is_array);
    let down = match &down[..] {
        [first, rest @ ..] if is_mirrored && rest.iter().all(|d| d == first) => first.clone(),
        _ => down.into(),
    };
    [down, if is_mirrored { Value::Null } else { up.into() }]
}

/// `true` of a transformer that attends to the prompt where others attend to the picture.
fn sees_the_prompt_only(part: &Part<'_>, layer: &Layer, cross: Option<usize>) -> bool {
    let start = format!("{}transformer_blocks.0.attn1.", layer.transformer);
    let [keys, queries] =
        ["to_k", "to_q"].map(|name| part.side(&format!("{start}{name}.weight"), 1));
    keys.is_some() && keys == cross && keys != queries
}
