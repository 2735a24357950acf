//! Settings of an autoencoder that its tensors' shapes tell, and its tensors' names.

use serde_json::{Map, Value, json};

use super::names::{Entries, Numbers};
use crate::inspect::Naming;
use crate::inspect::blocks::numbers;
use crate::inspect::parts::Part;
use crate::ldm::Layout;
use crate::vae::VaeConfig;
use crate::{ConfigFile, Result};

/// Names of a block's first convolution: the original code's, and diffusers'.
const ORIGINAL: [&str; 3] = ["down.", "up.", "block."];
const DIFFUSERS: [&str; 3] = ["down_blocks.", "up_blocks.", "resnets."];

/// Other names that files of the original layout have for a layer of the attention: those of
/// diffusers, by scripts that knew no better.
const SPELLINGS: &[(&str, &str)] = &[
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("to_out.0", "proj_out"),
    ("query", "q"),
    ("key", "k"),
    ("value", "v"),
    ("proj_attn", "proj_out"),
    ("group_norm", "norm"),
];

/// An autoencoder's settings.
pub(super) fn settings(part: &Part<'_>) -> Map<String, Value> {
    let [down, up, layer] = match part.layout {
        Naming::Ldm => ORIGINAL,
        _ => DIFFUSERS,
    };
    // Where one half is missing the other tells as much; what is missing is an error later.
    let (side, blocks, more) = match part.any("encoder.") {
        true => ("encoder.", down, 0),
        false => ("decoder.", up, 1),
    };
    let blocks = format!("{side}{blocks}");
    let levels = numbers(part, &blocks);
    let mut channels: Vec<Option<usize>> = (levels.iter())
        .map(|level| part.side(&format!("{blocks}{level}.{layer}0.conv1.weight"), 0))
        .collect();
    if side == "decoder." && part.layout != Naming::Ldm {
        channels.reverse();
    }
    let layers = numbers(part, &format!("{blocks}0.{layer}")).len();
    let latent = part.side("decoder.conv_in.weight", 1);
    let latent = latent.or_else(|| part.side("encoder.conv_out.weight", 0).map(|c| c / 2));
    let attends = part.any("encoder.mid.attn_1.")
        || part.any("decoder.mid.attn_1.")
        || part.any("encoder.mid_block.attentions.")
        || part.any("decoder.mid_block.attentions.");
    let settings = json!({
        "_class_name": "AutoencoderKL",
        "block_out_channels": channels,
        "down_block_types": vec!["DownEncoderBlock2D"; levels.len()],
        "in_channels": part.side("encoder.conv_in.weight", 1),
        "latent_channels": latent,
        "layers_per_block": layers.saturating_sub(more),
        "mid_block_add_attention": attends,
        "out_channels": part.side("decoder.conv_out.weight", 0),
        "up_block_types": vec!["UpDecoderBlock2D"; levels.len()],
        "use_post_quant_conv": part.any("post_quant_conv."),
        "use_quant_conv": part.any("quant_conv."),
    });
    super::object(settings)
}

/// Names by diffusers of an autoencoder's tensors, whose configuration is `file`.
pub(super) fn names(part: &Part<'_>, numbers: &Numbers<'_>, file: &ConfigFile) -> Result<Entries> {
    if part.layout != Naming::Ldm {
        return Ok(numbers.kept(part));
    }
    let layout = Layout::vae(&VaeConfig::new(file)?);
    Ok(numbers.renamed_by(part, &layout, original))
}

/// The original code's name of a tensor that its layout may spell otherwise.
fn original(name: &str) -> String {
    let spelt = || {
        let (attention, rest) = name.split_once("attn_1.")?;
        let (layer, parameter) = rest.rsplit_once('.')?;
        let (_, layer) = SPELLINGS.iter().find(|(spelling, _)| *spelling == layer)?;
        Some(format!("{attention}attn_1.{layer}.{parameter}"))
    };
    spelt().unwrap_or_else(|| name.into())
}
