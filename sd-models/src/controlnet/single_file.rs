//! A ControlNet in one file: settings by its tensors' shapes, and names by the table of its layout.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::ControlNetConfig;
use crate::files::Located;
use crate::inspect::Naming;
use crate::inspect::parts::{Part, Parts, Role};
use crate::ldm::{self, Layout, Storage};
use crate::single_file::families::Heads;
use crate::single_file::names::Numbers;
use crate::single_file::unet;
use crate::weights::{Renamed, TensorSource, open as open_located};
use crate::{ConfigFile, Error, Files, Result, Weights};

/// Beginnings of names of networks that steer in other ways, and what they are.
const OTHERS: &[(&str, &str)] = &[
    ("lllite_", "a ControlNet-LLLite"),
    (
        "difference",
        "a ControlNet stored as the difference to a base model",
    ),
    ("ctrl_xs", "a ControlNet-XS"),
    ("control_scale", "a ControlNet-XS"),
    (
        "lora_controlnet",
        "a Control-LoRA, which opens beside a U-Net",
    ),
    ("image_proj", "an InstantID or an IP-Adapter"),
];

/// Settings of a U-Net that no shape tells, which are those of a copy of it.
const SHARED: &[&str] = &[
    "act_fn",
    "addition_time_embed_dim",
    "attention_head_dim",
    "downsample_padding",
    "flip_sin_to_cos",
    "freq_shift",
    "mid_block_scale_factor",
    "norm_eps",
    "norm_num_groups",
    "resnet_time_scale_shift",
    "upcast_attention",
];

/// Sines and cosines for each size or crop in the published models.
const TIME_CHANNELS: usize = 256;

/// The configuration and the weights, by diffusers' names, in the file `path`.
pub(super) fn open(path: &Path, unet: Option<&Files>) -> Result<(ConfigFile, Weights)> {
    let source = open_located(Located::Disk(path.into()))?.sound()?;
    let tensors = source.tensors();
    let start = format!("{}.", ldm::CONTROLNET);
    let is_prefixed = tensors.iter().any(|t| t.name.starts_with(&start));
    let prefix = if is_prefixed { "control_model." } else { "" };
    let own = tensors.iter().filter_map(|tensor| {
        let name = tensor.name.strip_prefix(prefix)?;
        Some((name, tensor))
    });
    let own: BTreeMap<&str, _> = own.collect();
    let has = |start: &str| own.keys().any(|name| name.starts_with(start));
    let any = |start: &str| tensors.iter().any(|t| t.name.starts_with(start));
    if let Some((_, what)) = OTHERS.iter().find(|(start, _)| any(start)) {
        return Err(Error::Unsupported {
            path: path.into(),
            what: format!("it is {what}, which is not supported; supported is a ControlNet"),
        });
    }
    let layout = match (has("input_hint_block."), has("controlnet_cond_embedding.")) {
        (true, false) => Naming::Ldm,
        (false, true) => Naming::Diffusers,
        _ => {
            return Err(Error::Contents {
                path: path.into(),
                found: "tensors of something else, or of two things".into(),
                expected: "a ControlNet's, with an embedding of the picture".into(),
            });
        }
    };
    let part = Part {
        role: Role::Unknown,
        layout,
        prefix,
        tensors: own,
    };
    let mut settings = settings(&part, path);
    if let Some(unet) = unet.filter(|unet| unet.has("config.json")) {
        let mut said: Map<String, Value> = unet.json("config.json")?;
        said.retain(|name, _| SHARED.contains(&name.as_str()));
        settings.extend(said);
    }
    let file = ConfigFile::new(path, settings);
    let numbers = Numbers::new(tensors);
    let mut entries = match layout {
        Naming::Ldm => numbers.renamed(&part, &Layout::controlnet(&ControlNetConfig::new(&file)?)),
        _ => numbers.kept(&part),
    };
    // A model may lie around it; what is of no model is nobody's, and an error by its name.
    let others = tensors.iter().filter(|t| !t.name.starts_with(prefix));
    let others: Vec<_> = others.cloned().collect();
    for part in Parts::of(&others)
        .iter()
        .filter(|part| part.role == Role::Unknown)
    {
        let unknown = part.tensors.iter();
        entries.extend(unknown.map(|(name, tensor)| {
            let index = numbers.of(part, name);
            (index, tensor.name.clone(), Storage::Whole)
        }));
    }
    let renamed: Arc<dyn TensorSource> = Arc::new(Renamed::new(source.clone(), entries));
    Ok((file, Weights::from_source(renamed)?))
}

/// The settings that the shapes tell; what they do not is as in the published ControlNets.
fn settings(part: &Part<'_>, path: &Path) -> Map<String, Value> {
    let heads = match unet::cross_width(part) {
        Some(1024..) => Heads::Width(64),
        _ => Heads::Count(8),
    };
    let mut settings = unet::settings(part, heads);
    for up in ["up_block_types", "reverse_transformer_layers_per_block"] {
        settings.remove(up);
    }
    let mut set = |name: &str, value: Value| drop(settings.insert(name.into(), value));
    set("_class_name", "ControlNetModel".into());
    if part.has("label_emb.0.0.weight") || part.has("add_embedding.linear_1.weight") {
        set("addition_time_embed_dim", TIME_CHANNELS.into());
    }
    let (channels, widths) = hint(part);
    set("conditioning_channels", channels.into());
    set("conditioning_embedding_out_channels", widths.into());
    if let Some(kinds) = part.side("task_embedding", 0) {
        set("_class_name", "ControlNetUnionModel".into());
        set("num_control_type", kinds.into());
        set("num_trans_channel", part.side("task_embedding", 1).into());
        set(
            "num_proj_channel",
            part.side("spatial_ch_projs.weight", 0).into(),
        );
        let is_layer = |k: &usize| part.any(&format!("transformer_layes.{k}."));
        set(
            "num_trans_layer",
            (0..64).take_while(is_layer).count().into(),
        );
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    if stem.to_lowercase().contains("shuffle") {
        tracing::warn!(
            "{}: taken by its name for a ControlNet that sees no places (shuffle)",
            path.display()
        );
        set("global_pool_conditions", true.into());
    }
    settings.retain(|_, value| !value.is_null());
    settings
}

/// The channels of the picture, and those of its embedding.
pub(super) fn hint(part: &Part<'_>) -> (Option<usize>, Vec<usize>) {
    let layer = |number: usize| match part.layout {
        Naming::Ldm => format!("input_hint_block.{}.weight", 2 * number),
        _ => match number {
            0 => "controlnet_cond_embedding.conv_in.weight".into(),
            k => format!("controlnet_cond_embedding.blocks.{}.weight", k - 1),
        },
    };
    // The first's, and of the others every second one's: in the original's list the last is the output's.
    let widths = (0..).step_by(2).map_while(|k| {
        let is_last = part.layout == Naming::Ldm && !part.has(&layer(k + 1));
        part.side(&layer(k), 0).filter(|_| !is_last)
    });
    (part.side(&layer(0), 1), widths.take(8).collect())
}
