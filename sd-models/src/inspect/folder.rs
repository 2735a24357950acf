//! Folders: a whole model with its index, or one component.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Inspection, Kind, Naming, PredictionType, inspect_file, no_weights};
use crate::{Files, Result};

pub(super) fn inspect(path: &Path) -> Result<Inspection> {
    let files = Files::directory(path);
    if !files.has("model_index.json") {
        return component(path, &files)?.ok_or_else(|| no_weights(path));
    }
    let index: Map<String, Value> = files.json("model_index.json")?;
    let mut whole = Inspection::new(Kind::Model, &[]);
    whole.layout = Some(Naming::Diffusers);
    for (name, class) in &index {
        // Components are pairs of a library and a class; without weights of their own are these.
        let Some([library, Value::String(class)]) = class.as_array().map(Vec::as_slice) else {
            continue;
        };
        let without = ["Scheduler", "Tokenizer", "Processor", "FeatureExtractor"];
        if library.is_null() || without.iter().any(|part| class.contains(part)) {
            continue;
        }
        match component(&path.join(name), &files.folder(name))? {
            None => whole.missing.push(name.clone()),
            Some(part) => {
                whole.components.push(name.clone());
                whole.parameters += part.parameters;
                for (dtype, count) in part.dtypes {
                    *whole.dtypes.entry(dtype).or_default() += count;
                }
                whole
                    .missing
                    .extend(part.missing.iter().map(|what| format!("{name}: {what}")));
                if matches!(part.kind, Kind::Unet | Kind::Transformer) {
                    whole.family = part.family;
                    whole.channels = part.channels;
                    whole.prediction = part.prediction;
                    whole.prediction_reason = part.prediction_reason;
                    whole.ambiguous.extend(part.ambiguous);
                }
            }
        }
    }
    let scheduler = files.folder("scheduler");
    if scheduler.has("scheduler_config.json") {
        let config: Map<String, Value> = scheduler.json("scheduler_config.json")?;
        let said = config.get("prediction_type").and_then(Value::as_str);
        let prediction = match said {
            Some("v_prediction") => Some(PredictionType::VPrediction),
            Some("sample") => Some(PredictionType::Sample),
            Some("epsilon") => Some(PredictionType::Epsilon),
            // diffusers' default; a flow's scheduler knows none of these.
            None if config.contains_key("beta_start") => Some(PredictionType::Epsilon),
            _ => None,
        };
        if prediction.is_some() {
            whole.prediction = prediction;
            whole.prediction_reason = Some("scheduler_config.json".into());
            whole
                .ambiguous
                .retain(|what| !what.starts_with("prediction"));
        }
        let zero = config
            .get("rescale_betas_zero_snr")
            .and_then(Value::as_bool);
        whole.zero_terminal_snr |= zero == Some(true);
    } else {
        whole.missing.push("scheduler".into());
    }
    Ok(whole)
}

/// The weights of a component's folder; `None` where there are none.
fn component(path: &Path, files: &Files) -> Result<Option<Inspection>> {
    let names = files.names();
    // The plain file before its variants, safetensors before others, shards only where all are.
    let ending = |name: &String| {
        let rank = [".safetensors", ".bin", ".gguf", ".ckpt", ".pth", ".pt"]
            .iter()
            .position(|end| name.ends_with(end))?;
        let shard = name.contains("-of-");
        Some((shard, rank, name.matches('.').count(), name.clone()))
    };
    let mut weights: Vec<_> = names.iter().filter_map(ending).collect();
    weights.sort();
    let Some((shard, ..)) = weights.first() else {
        return Ok(None);
    };
    if !shard {
        return inspect_file(&path.join(&weights[0].3)).map(Some);
    }
    let (_, rank, dots, _) = weights[0];
    let mut tensors = Vec::new();
    for (.., name) in weights
        .iter()
        .filter(|(_, r, d, _)| (*r, *d) == (rank, dots))
    {
        let opened = crate::open_source(path.join(name))?;
        tensors.extend(opened.tensors().iter().cloned());
    }
    let beside = super::prediction::Beside {
        name: String::new(),
        config: None,
        metadata: &std::collections::BTreeMap::new(),
    };
    Ok(Some(super::describe(&tensors, &beside)))
}
