//! Autoencoders: AutoencoderKL in three spellings, and the tiny one in two.

use std::collections::BTreeMap;

use super::blocks::{holes, numbers, pairs};
use super::parts::Part;
use crate::weights::TensorInfo;

/// What an autoencoder's tensors say.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) family: Option<String>,
    pub(crate) latent_channels: Option<usize>,
    pub(crate) missing: Vec<String>,
    pub(crate) ambiguous: Vec<String>,
}

/// Original names and diffusers': of the way down and up with their layers, and what is in them.
struct Spelling {
    down: &'static str,
    up: &'static str,
    layer: &'static str,
    /// Convolutions that halve and double a picture's sides.
    resample: [&'static str; 2],
    middle: [&'static str; 2],
    shortcut: &'static str,
    attention: &'static str,
    norm: &'static str,
    norm_out: &'static str,
    /// Spellings of queries, keys, values and the output.
    projections: &'static [[&'static str; 4]],
}

const ORIGINAL: Spelling = Spelling {
    down: "down.",
    up: "up.",
    layer: "block.",
    resample: ["downsample.conv", "upsample.conv"],
    middle: ["mid.block_1.", "mid.block_2."],
    shortcut: "nin_shortcut",
    attention: "mid.attn_1.",
    norm: "norm",
    norm_out: "norm_out",
    projections: &[
        ["q", "k", "v", "proj_out"],
        ["to_q", "to_k", "to_v", "to_out.0"],
    ],
};

const DIFFUSERS: Spelling = Spelling {
    down: "down_blocks.",
    up: "up_blocks.",
    layer: "resnets.",
    resample: ["downsamplers.0.conv", "upsamplers.0.conv"],
    middle: ["mid_block.resnets.0.", "mid_block.resnets.1."],
    shortcut: "conv_shortcut",
    attention: "mid_block.attentions.0.",
    norm: "group_norm",
    norm_out: "conv_norm_out",
    projections: &[
        ["to_q", "to_k", "to_v", "to_out.0"],
        ["query", "key", "value", "proj_attn"],
    ],
};

fn starts(tensors: &BTreeMap<&str, &TensorInfo>, start: &str) -> bool {
    tensors
        .range(start..)
        .next()
        .is_some_and(|(name, _)| name.starts_with(start))
}

pub(crate) fn is_vae(tensors: &BTreeMap<&str, &TensorInfo>) -> bool {
    let sides = [
        "encoder.conv_in.",
        "decoder.conv_in.",
        "encoder.layers.",
        "decoder.layers.",
        "taesd_",
    ];
    let blocks = [
        "down.",
        "up.",
        "mid.",
        "down_blocks.",
        "up_blocks.",
        "mid_block.",
    ];
    sides.iter().any(|side| starts(tensors, side))
        || ["encoder.", "decoder."].iter().any(|side| {
            blocks
                .iter()
                .any(|block| starts(tensors, &format!("{side}{block}")))
        })
        || is_half(tensors)
}

/// One half of the tiny autoencoder in its own files: a list of layers by their numbers.
pub(crate) fn is_half(tensors: &BTreeMap<&str, &TensorInfo>) -> bool {
    tensors.contains_key("3.conv.4.bias") && tensors.contains_key("8.conv.0.weight")
}

pub(crate) fn describe(part: &Part<'_>, file: &str) -> Facts {
    if is_half(&part.tensors)
        || starts(&part.tensors, "decoder.layers.")
        || starts(&part.tensors, "encoder.layers.")
    {
        return tiny(part, file);
    }
    let mut facts = Facts {
        latent_channels: part.side("decoder.conv_in.weight", 1),
        ..Facts::default()
    };
    let is_original = part.any("encoder.down.")
        || part.any("decoder.up.")
        || part.any("decoder.mid.")
        || part.any("encoder.mid.");
    let spelling = if is_original { &ORIGINAL } else { &DIFFUSERS };
    for (side, blocks) in [("encoder.", spelling.down), ("decoder.", spelling.up)] {
        facts
            .missing
            .extend(side_missing(part, spelling, side, blocks));
    }
    for conv in ["quant_conv", "post_quant_conv"] {
        if part.any(&format!("{conv}.")) {
            facts.missing.extend(part.absent(pairs("", &[conv])));
        }
    }
    match facts.latent_channels {
        Some(4) if numbers(part, &format!("decoder.{}", spelling.up)).len() == 3 => {
            facts.family = Some("x4_upscaler".into());
        }
        Some(4) if file.contains("xl") => facts.family = Some("sdxl".into()),
        Some(4) => facts.ambiguous.push(
            "family: sd1, sd2 and sdxl have this autoencoder's tensors; their scaling factors differ"
                .into(),
        ),
        Some(16) => facts.ambiguous.push(
            "family: sd3 and flux have this autoencoder's tensors; their scaling factors differ".into(),
        ),
        _ => facts.ambiguous.push("family: no known one has this autoencoder".into()),
    }
    facts
}

/// Holes in the encoder or the decoder.
fn side_missing(part: &Part<'_>, spelling: &Spelling, side: &str, blocks: &str) -> Vec<String> {
    if !part.any(side) {
        return vec![format!("{}{side}*", part.prefix)];
    }
    let blocks = format!("{side}{blocks}");
    let levels = numbers(part, &blocks);
    let mut missing = holes(part, &blocks, &levels);
    let mut expected = pairs(side, &["conv_in", spelling.norm_out, "conv_out"]);
    let mut resnets: Vec<String> = spelling
        .middle
        .iter()
        .map(|block| format!("{side}{block}"))
        .collect();
    let layers: Vec<(usize, Vec<usize>)> = levels
        .iter()
        .map(|level| {
            (
                *level,
                numbers(part, &format!("{blocks}{level}.{}", spelling.layer)),
            )
        })
        .collect();
    let most = layers
        .iter()
        .flat_map(|(_, layers)| layers.last())
        .max()
        .map_or(0, |last| last + 1);
    for (at, (level, layers)) in layers.iter().enumerate() {
        // The original code numbers the way up from the picture's resolution too.
        let (resample, is_last) = match side {
            "encoder." => (spelling.resample[0], at + 1 == levels.len()),
            _ if spelling.up == ORIGINAL.up => (spelling.resample[1], at == 0),
            _ => (spelling.resample[1], at + 1 == levels.len()),
        };
        if !is_last {
            expected.extend(pairs(&format!("{blocks}{level}."), &[resample]));
        }
        let start = format!("{blocks}{level}.{}", spelling.layer);
        let absent = (0..most.min(16)).filter(|layer| !layers.contains(layer));
        missing.extend(absent.map(|layer| format!("{}{start}{layer}", part.prefix)));
        resnets.extend(layers.iter().map(|layer| format!("{start}{layer}.")));
    }
    for resnet in resnets {
        expected.extend(pairs(&resnet, &["norm1", "conv1", "norm2", "conv2"]));
        let conv = format!("{resnet}conv1.weight");
        if part.side(&conv, 0) != part.side(&conv, 1) {
            expected.extend(pairs(&resnet, &[spelling.shortcut]));
        }
    }
    let attention = format!("{side}{}", spelling.attention);
    if part.any(&attention) {
        expected.extend(pairs(&attention, &[spelling.norm]));
        let spelt =
            |names: &&[&str; 4]| names.iter().any(|n| part.any(&format!("{attention}{n}.")));
        let names = spelling.projections.iter().find(spelt);
        expected.extend(pairs(&attention, names.map_or(&[], |names| &names[..])));
    }
    missing.extend(part.absent(expected));
    missing
}

/// The tiny autoencoder: both halves by diffusers' names, or one by its own.
fn tiny(part: &Part<'_>, file: &str) -> Facts {
    let mut facts = Facts::default();
    let half = is_half(&part.tensors);
    let (first, last) = match half {
        // Of a decoder the first layer takes latents, of an encoder the last one makes them.
        true if part.side("1.weight", 0).is_some() && part.side("0.weight", 0).is_none() => {
            (part.side("1.weight", 1), None)
        }
        true => (
            None,
            numbers(part, "")
                .last()
                .and_then(|n| part.side(&format!("{n}.weight"), 0)),
        ),
        false => (part.side("decoder.layers.0.weight", 1), None),
    };
    facts.latent_channels = first.or(last);
    if !half {
        for side in ["encoder.layers.", "decoder.layers."] {
            if !part.any(side) {
                facts.missing.push(format!("{}{side}*", part.prefix));
            }
        }
    }
    let (xl, families) = match facts.latent_channels {
        Some(16) => (file.contains("taef1"), ["flux", "sd3"]),
        _ => (file.contains("xl"), ["sdxl", "sd1"]),
    };
    let named = file.contains("taesd") || file.contains("taef1");
    match (xl, named && file.contains("taesd3")) {
        (true, _) => facts.family = Some(families[0].into()),
        (_, true) => facts.family = Some("sd3".into()),
        _ => {
            let [a, b] = families;
            facts.ambiguous.push(format!(
                "family: {a} and {b} have tiny autoencoders of these tensors"
            ));
        }
    }
    facts
}
