//! Settings of a text encoder that its tensors' shapes tell, and its tensors' names.

use serde_json::{Map, Value, json};

use super::names::{Entries, Numbers};
use crate::inspect::blocks::numbers;
use crate::inspect::parts::Part;
use crate::inspect::text::spelling_of;
use crate::ldm::{Layout, Storage};
use crate::{ClipTextConfig, ConfigFile, Result};

/// Width of a head in every CLIP.
const HEAD: usize = 64;

/// Width of OpenAI's text encoder, whose activation is another than that of OpenCLIP's wider ones.
const OPEN_AI: usize = 768;

/// The projection of the pooled prompt by transformers' name; OpenCLIP's, which is transposed, has
/// no ending.
const PROJECTION: &str = "text_projection.weight";

/// A text encoder's settings, with at most `layers` of its layers.
pub(super) fn settings(parts: &[&Part<'_>], layers: Option<usize>) -> Map<String, Value> {
    let find = |name: &str, axis| parts.iter().find_map(|part| part.side(name, axis));
    let spelt = |part: &&Part<'_>| Some((spelling_of(part)?, part.tensors.len()));
    let spelling = parts
        .iter()
        .filter_map(spelt)
        .max_by_key(|(_, count)| *count);
    let Some(((spelling, prefix), _)) = spelling else {
        return Map::new();
    };
    let list = format!("{prefix}{}", spelling.layers);
    let found = parts.iter().map(|part| numbers(part, &list).len()).max();
    let count = found.map(|count| count.min(layers.unwrap_or(usize::MAX)));
    let table = format!("{prefix}{}", spelling.table);
    let width = find(&table, 1);
    // Stored from the right by OpenCLIP, from the left by transformers.
    let projection = find("text_projection", 1).or(find("text_model.text_projection", 1));
    let projection = projection.or(find(PROJECTION, 0));
    let class = match width {
        Some(width) if projection.is_some() && width > 1024 => "CLIPTextModelWithProjection",
        _ => "CLIPTextModel",
    };
    let settings = json!({
        "architectures": [class],
        "hidden_act": if width == Some(OPEN_AI) { "quick_gelu" } else { "gelu" },
        "hidden_size": width,
        "intermediate_size": find(&format!("{list}0.{}.weight", spelling.inner), 0),
        "max_position_embeddings": find(&format!("{prefix}{}", spelling.positions), 0),
        "model_type": "clip_text_model",
        "num_attention_heads": width.map(|width| (width / HEAD).max(1)),
        "num_hidden_layers": count,
        "projection_dim": projection.or(width),
        "vocab_size": find(&table, 0),
    });
    super::object(settings)
}

/// Names by transformers of a text encoder's tensors, whose configuration is `file`, whichever way
/// they are spelt: transformers', OpenCLIP's, or stable-diffusion.cpp's mixture.
pub(super) fn names(
    parts: &[&Part<'_>],
    indices: &Numbers<'_>,
    file: &ConfigFile,
) -> Result<Entries> {
    let config = ClipTextConfig::from_file(file)?;
    let layout = Layout::open_clip(&config);
    let mut entries = Entries::new();
    for part in parts {
        for name in part.tensors.keys() {
            let inner = name.strip_prefix("text_model.").unwrap_or(name);
            if is_unused(inner, &config) {
                continue;
            }
            let index = indices.of(part, name);
            let renamed = match inner {
                // As transformers stores it, whatever the others' names.
                PROJECTION => Vec::new(),
                _ => layout.in_diffusers(&format!("model.{}", original(inner))),
            };
            if renamed.is_empty() {
                entries.push((index, inner.into(), Storage::Whole));
            }
            entries.extend(
                renamed
                    .into_iter()
                    .map(|(name, storage)| (index, name, storage)),
            );
        }
    }
    Ok(entries)
}

/// OpenCLIP's name of a tensor that is stored as OpenCLIP does under a name after transformers'.
fn original(name: &str) -> String {
    let fused = || {
        let (layer, parameter) = name.split_once(".self_attn.in_proj.")?;
        let number = layer.strip_prefix("encoder.layers.")?;
        Some(format!(
            "transformer.resblocks.{number}.attn.in_proj_{parameter}"
        ))
    };
    fused().unwrap_or_else(|| name.into())
}

/// `true` of what a text encoder has for pictures' sake or behind its last layer that is used.
fn is_unused(name: &str, config: &ClipTextConfig) -> bool {
    let lists = ["encoder.layers.", "transformer.resblocks."];
    let layer = lists.iter().find_map(|list| name.strip_prefix(list));
    if let Some(layer) = layer {
        let number = layer
            .split('.')
            .next()
            .and_then(|n| n.parse::<usize>().ok());
        return number.is_some_and(|number| number >= config.num_hidden_layers);
    }
    let is_projection = name == PROJECTION || PROJECTION.strip_suffix(".weight") == Some(name);
    is_projection && config.projection.is_none()
}
