//! U-Nets: their structure, by the tensors that are there, and the family that has it.

use super::Naming;
use super::blocks::{holes, numbers, pairs, weights};
use super::parts::Part;
use crate::ldm::Numbering;

/// What a denoiser's tensors say.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) is_unet: bool,
    pub(crate) family: Option<&'static str>,
    pub(crate) in_channels: Option<usize>,
    /// Width of the prompt's tokens.
    pub(crate) cross_width: Option<usize>,
    pub(crate) missing: Vec<String>,
}

/// A residual block and the transformer behind it.
pub(crate) struct Layer {
    pub(crate) resnet: String,
    /// The transformer's prefix, and the number of its blocks; 0 where there is none.
    pub(crate) transformer: String,
    pub(crate) depth: usize,
}

/// The way down or the way up: the layers at each resolution.
pub(crate) type Way = Vec<Vec<Layer>>;

/// Structure of a U-Net.
pub(crate) struct Structure {
    pub(crate) down: Way,
    pub(crate) up: Way,
    /// Convolutions between resolutions.
    resamplers: Vec<String>,
    /// The middle's residual blocks, and its transformer.
    pub(crate) middle: Vec<Layer>,
    missing: Vec<String>,
    /// Numbering of the blocks in the original code's names.
    pub(crate) numbering: Numbering,
}

/// Modules of a residual block; the last where it changes the number of channels.
struct Resnet {
    modules: [&'static str; 5],
    shortcut: &'static str,
    first: &'static str,
}

const ORIGINAL: Resnet = Resnet {
    modules: [
        "in_layers.0",
        "in_layers.2",
        "emb_layers.1",
        "out_layers.0",
        "out_layers.3",
    ],
    shortcut: "skip_connection",
    first: "in_layers.2.weight",
};

const DIFFUSERS: Resnet = Resnet {
    modules: ["norm1", "conv1", "time_emb_proj", "norm2", "conv2"],
    shortcut: "conv_shortcut",
    first: "conv1.weight",
};

pub(crate) fn describe(part: &Part<'_>) -> Facts {
    let is_original = part.layout == Naming::Ldm;
    let structure = structure(part);
    let width = |start: &str| {
        let name = part
            .tensors
            .range(start..)
            .find(|(name, _)| name.ends_with("attn2.to_k.weight"));
        name.and_then(|(_, tensor)| tensor.shape.get(1).copied())
    };
    let input = if is_original {
        "input_blocks.0.0.weight"
    } else {
        "conv_in.weight"
    };
    let cross_width = width("");
    let in_channels = part.side(input, 1);
    let missing = missing(part, &structure, is_original);
    Facts {
        is_unet: true,
        family: family(part, &structure, cross_width, in_channels),
        in_channels,
        cross_width,
        missing,
    }
}

/// The structure that the tensors of a U-Net have.
pub(crate) fn structure(part: &Part<'_>) -> Structure {
    match part.layout {
        Naming::Ldm => original(part),
        _ => diffusers(part),
    }
}

/// The structure in the original code's numbering, whether each layer has the next number or each
/// resolution three of them.
fn original(part: &Part<'_>) -> Structure {
    let layer = |list: &str, number: usize| {
        let start = format!("{list}{number}.1.");
        Layer {
            resnet: format!("{list}{number}.0."),
            depth: numbers(part, &format!("{start}transformer_blocks.")).len(),
            transformer: start,
        }
    };
    let mut structure = Structure {
        down: vec![Vec::new()],
        up: vec![Vec::new()],
        resamplers: Vec::new(),
        middle: Vec::new(),
        missing: Vec::new(),
        numbering: Numbering::Contiguous,
    };
    let list = "input_blocks.";
    let found = numbers(part, list);
    // Of an export by diffusers' script each resolution has three numbers, used or not.
    let is_gapped = !found.contains(&2) && found.contains(&3) && part.any("input_blocks.3.0.op.");
    for number in found.iter().copied().filter(|n| *n > 0) {
        let op = format!("{list}{number}.0.op");
        if part.any(&format!("{op}.")) {
            structure.resamplers.push(op);
            structure.down.push(Vec::new());
        } else if let Some(block) = structure.down.last_mut() {
            block.push(layer(list, number));
        }
    }
    let list = "output_blocks.";
    let found_up = numbers(part, list);
    for number in found_up.iter().copied() {
        if part.any(&format!("{list}{number}.0."))
            && let Some(block) = structure.up.last_mut()
        {
            block.push(layer(list, number));
        }
        let conv = [1, 2].map(|k| format!("{list}{number}.{k}.conv"));
        if let Some(conv) = conv.into_iter().find(|conv| part.any(&format!("{conv}."))) {
            structure.resamplers.push(conv);
            structure.up.push(Vec::new());
        }
    }
    if is_gapped {
        structure.numbering = Numbering::ThreePerResolution;
        // What the script does not know it leaves with diffusers' names.
        for (block, layers) in structure.up.iter_mut().enumerate() {
            for (number, layer) in layers.iter_mut().enumerate() {
                let start = format!("up_blocks.{block}.attentions.{number}.");
                if part.any(&start) {
                    layer.depth = numbers(part, &format!("{start}transformer_blocks.")).len();
                    layer.transformer = start;
                }
            }
        }
    } else {
        structure
            .missing
            .extend(holes(part, "input_blocks.", &found));
        structure.missing.extend(holes(part, list, &found_up));
    }
    if part.any("middle_block.") {
        structure.middle.push(Layer {
            resnet: "middle_block.0.".into(),
            depth: numbers(part, "middle_block.1.transformer_blocks.").len(),
            transformer: "middle_block.1.".into(),
        });
        if part.any("middle_block.1.") || part.any("middle_block.2.") {
            structure.middle.push(Layer {
                resnet: "middle_block.2.".into(),
                transformer: String::new(),
                depth: 0,
            });
        }
    }
    structure
}

fn diffusers(part: &Part<'_>) -> Structure {
    let mut missing = Vec::new();
    let mut resamplers = Vec::new();
    let mut way = |list: &str, resampler: &str| -> Way {
        let blocks = numbers(part, list);
        missing.extend(holes(part, list, &blocks));
        let last = blocks.last().copied();
        let mut way = Way::new();
        for block in blocks {
            let start = format!("{list}{block}.");
            if last != Some(block) {
                resamplers.push(format!("{start}{resampler}.0.conv"));
            }
            let list = format!("{start}resnets.");
            let resnets = numbers(part, &list);
            missing.extend(holes(part, &list, &resnets));
            let layer = |number: usize| {
                let transformer = format!("{start}attentions.{number}.");
                Layer {
                    resnet: format!("{list}{number}."),
                    depth: numbers(part, &format!("{transformer}transformer_blocks.")).len(),
                    transformer,
                }
            };
            way.push(resnets.into_iter().map(layer).collect());
        }
        way
    };
    let (down, up) = (
        way("down_blocks.", "downsamplers"),
        way("up_blocks.", "upsamplers"),
    );
    let mut middle = Vec::new();
    if part.any("mid_block.") {
        let transformer = "mid_block.attentions.0.";
        let attends = part.any(transformer);
        middle.push(Layer {
            resnet: "mid_block.resnets.0.".into(),
            depth: numbers(part, &format!("{transformer}transformer_blocks.")).len(),
            transformer: transformer.into(),
        });
        if attends || part.any("mid_block.resnets.1.") {
            middle.push(Layer {
                resnet: "mid_block.resnets.1.".into(),
                transformer: String::new(),
                depth: 0,
            });
        }
    }
    Structure {
        down,
        up,
        resamplers,
        middle,
        missing,
        numbering: Numbering::Contiguous,
    }
}

/// Tensors that the structure needs and that are not there.
fn missing(part: &Part<'_>, structure: &Structure, is_original: bool) -> Vec<String> {
    let mut missing = structure.missing.clone();
    let resnet = if is_original { &ORIGINAL } else { &DIFFUSERS };
    let outer: &[&str] = match is_original {
        true => &[
            "input_blocks.0.0",
            "time_embed.0",
            "time_embed.2",
            "out.0",
            "out.2",
        ],
        false => &[
            "conv_in",
            "time_embedding.linear_1",
            "time_embedding.linear_2",
            "conv_norm_out",
            "conv_out",
        ],
    };
    let mut expected = pairs("", outer);
    for added in [
        ["label_emb.0.0", "label_emb.0.2"],
        ["add_embedding.linear_1", "add_embedding.linear_2"],
    ] {
        if added.iter().any(|name| part.any(&format!("{name}."))) {
            expected.extend(pairs("", &added));
        }
    }
    for conv in &structure.resamplers {
        expected.extend(pairs("", &[conv.as_str()]));
    }
    let ways = [(&structure.down, 0), (&structure.up, 1)];
    let count = |way: &Way, more: usize| {
        way.iter()
            .map(|block| block.len().saturating_sub(more))
            .max()
            .unwrap_or(0)
    };
    let layers = ways
        .iter()
        .map(|(way, more)| count(way, *more))
        .max()
        .unwrap_or(0);
    for ((way, more), name) in ways.into_iter().zip(["down", "up"]) {
        for (number, block) in way.iter().enumerate() {
            if block.len() < layers + more {
                let (found, whole) = (block.len(), layers + more);
                missing.push(format!(
                    "layers of {name} block {number}: {found} of {whole}"
                ));
            }
            let attends = block.iter().any(|layer| layer.depth > 0);
            for layer in block {
                if attends && layer.depth == 0 {
                    missing.push(format!("{}{}*", part.prefix, layer.transformer));
                }
            }
        }
    }
    if structure.down.len() != structure.up.len() {
        let [down, up] = [structure.down.len(), structure.up.len()];
        missing.push(format!(
            "blocks: {down} on the way down, {up} on the way up"
        ));
    }
    let ways = structure.down.iter().chain(&structure.up).flatten();
    for layer in ways.chain(&structure.middle) {
        expected.extend(pairs(&layer.resnet, &resnet.modules));
        let conv = format!("{}{}", layer.resnet, resnet.first);
        if part.side(&conv, 0) != part.side(&conv, 1) {
            expected.extend(pairs(&layer.resnet, &[resnet.shortcut]));
        }
        if layer.depth > 0 {
            transformer(part, &layer.transformer, &mut expected, &mut missing);
        }
    }
    missing.extend(part.absent(expected));
    missing
}

/// Adds what a transformer has.
fn transformer(
    part: &Part<'_>,
    start: &str,
    expected: &mut Vec<String>,
    missing: &mut Vec<String>,
) {
    expected.extend(pairs(start, &["norm", "proj_in", "proj_out"]));
    let list = format!("{start}transformer_blocks.");
    let blocks = numbers(part, &list);
    missing.extend(holes(part, &list, &blocks));
    for block in blocks {
        let block = format!("{list}{block}.");
        // A block may look at the prompt alone.
        for attention in ["attn1.", "attn2."].map(|name| format!("{block}{name}")) {
            if part.any(&attention) {
                expected.extend(weights(&attention, &["to_q", "to_k", "to_v"]));
                expected.extend(pairs(&attention, &["to_out.0"]));
            }
        }
        expected.extend(weights(&block, &["attn2.to_q"]));
        let norms: &[&str] = match part.any(&format!("{block}attn1.")) {
            true => &["norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2"],
            false => &["norm2", "norm3", "ff.net.0.proj", "ff.net.2"],
        };
        expected.extend(pairs(&block, norms));
    }
}

/// Parts of names that networks have which are built around a U-Net of these families, and theirs.
const FOREIGN: &[(&str, &str)] = &[
    ("time_stack.", "svd"),
    ("temporal_transformer_blocks.", "svd"),
    ("temp_convs.", "text_to_video"),
    ("temopral_conv.", "text_to_video"),
    ("motion_modules.", "animatediff"),
];

/// The family whose U-Net has this structure.
fn family(
    part: &Part<'_>,
    structure: &Structure,
    width: Option<usize>,
    in_channels: Option<usize>,
) -> Option<&'static str> {
    let foreign = FOREIGN
        .iter()
        .find(|(mark, _)| part.tensors.keys().any(|name| name.contains(mark)));
    if let Some((_, family)) = foreign {
        return Some(family);
    }
    let blocks = structure.down.len();
    let layers = structure.down.iter().map(Vec::len).max().unwrap_or(0);
    let depth = |block: usize| {
        let block = structure.down.get(block)?;
        block.iter().map(|layer| layer.depth).max()
    };
    let middle = match structure.middle.first() {
        None => Middle::Absent,
        Some(layer) if layer.depth > 0 => Middle::Attends,
        Some(_) => Middle::Plain,
    };
    let is_lcm = part.has("time_embedding.cond_proj.weight");
    let added = part
        .side("label_emb.0.0.weight", 1)
        .or(part.side("add_embedding.linear_1.weight", 1));
    Some(match (width?, blocks, layers, middle) {
        (2048, ..) if part.side("encoder_hid_proj.weight", 1) == Some(4096) => "kolors",
        _ if part.any("encoder_hid_proj.") => return None,
        (1024, ..) if in_channels == Some(7) => "x4_upscaler",
        // The picture of CLIP in place of the text's: unCLIP.
        (1024, 4, 2, _) if added.is_some() => return None,
        (768, 4, 2, Middle::Attends) if is_lcm => "lcm",
        (768, 4, 2, Middle::Attends) => "sd1",
        (1024, 4, 2, Middle::Attends) => "sd2",
        (768, 4, 1, Middle::Attends) => "small_sd",
        (768, 4, 1, Middle::Absent) => "bk_small",
        (1024, 4, 1, Middle::Attends) => "bk_v2_base",
        (1024, 4, 1, Middle::Absent) => "bk_v2_small",
        (768 | 1024, 3, 1, Middle::Absent) if depth(0) == Some(0) => "sdxs",
        (1024, 3, 1, Middle::Absent) if !attends_itself(part) => "sdxs",
        (768, 3, 1, Middle::Absent) => "tiny_sd",
        (1024, 3, 1, Middle::Absent) => "bk_v2_tiny",
        (1280, 4, 2, Middle::Attends) => "sdxl_refiner",
        (2048, 3, 1, _) => "koala",
        (2048, 3, 2, Middle::Plain) if depth(2) == Some(2) => "vega",
        (2048, 3, 2, Middle::Plain) => "ssd_1b",
        (2048, 3, 2, Middle::Attends) if is_lcm => "lcm_sdxl",
        (2048, 3, 2, Middle::Attends) => "sdxl",
        _ => return None,
    })
}

#[derive(PartialEq)]
enum Middle {
    Absent,
    Plain,
    Attends,
}

/// `true` where the finest transformer attends to the picture too: a first attention may also be
/// there to see the prompt twice, with keys as wide as its tokens.
fn attends_itself(part: &Part<'_>) -> bool {
    let starts = ["input_blocks.1.1.", "down_blocks.0.attentions.0."];
    starts.iter().any(|start| {
        let attention = format!("{start}transformer_blocks.0.attn1");
        let [queries, keys] =
            ["to_q", "to_k"].map(|name| part.side(&format!("{attention}.{name}.weight"), 1));
        queries.is_some() && queries == keys
    })
}
