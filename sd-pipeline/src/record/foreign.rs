//! Records of ComfyUI, a graph of nodes, and of InvokeAI.

use serde_json::{Map, Value};

use super::Record;

/// Links that are followed one after the other, more than graphs that people draw are deep.
const DEPTH: usize = 64;

fn text(value: &Value) -> Option<String> {
    value.as_str().map(Into::into)
}

fn count(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok()
}

/// The record that ComfyUI's graph of the interface says, read from its first sampler on.
pub(super) fn comfy_ui(json: &str) -> Option<Record> {
    let nodes: Map<String, Value> = serde_json::from_str(&without_nan(json)).ok()?;
    let inputs = nodes.values().filter_map(|node| node["inputs"].as_object());
    let mut samplers = inputs.filter(|inputs| {
        let has = |name: &str| inputs.contains_key(name);
        has("positive") && has("steps") && (has("seed") || has("noise_seed"))
    });
    let sampler = samplers.next()?;
    let graph = Graph(&nodes);
    let get = |name: &str| sampler.get(name).and_then(|value| graph.plain(value));
    let input = |name: &str, wanted| graph.find(sampler.get(name)?, wanted, DEPTH);
    let name = get("sampler_name").as_ref().and_then(text);
    let schedule = get("scheduler").as_ref().and_then(text);
    let scheduler = name.map(|name| match schedule {
        Some(schedule) => format!("comfyui:{name} {schedule}"),
        None => format!("comfyui:{name}"),
    });
    let denoise = get("denoise").and_then(|share| share.as_f64());
    let seed = get("seed").or_else(|| get("noise_seed"));
    Some(Record {
        software: Some("ComfyUI".into()),
        model: input("model", "ckpt_name").and_then(text),
        prompt: input("positive", "text").and_then(text)?,
        negative_prompt: input("negative", "text").and_then(text),
        seed: seed.and_then(|seed| seed.as_u64()),
        steps: get("steps").as_ref().and_then(count),
        scheduler,
        guidance_scale: get("cfg").and_then(|scale| scale.as_f64()),
        width: input("latent_image", "width").and_then(count),
        height: input("latent_image", "height").and_then(count),
        strength: denoise.filter(|share| *share < 1.0),
        ..Record::default()
    })
}

struct Graph<'a>(&'a Map<String, Value>);

impl<'a> Graph<'a> {
    /// The inputs of the node that a link `[id, output]` leads to.
    fn inputs(&self, link: &Value) -> Option<&'a Map<String, Value>> {
        let id = link.as_array()?.first()?;
        let id = id.as_str().map_or_else(|| id.to_string(), Into::into);
        self.0.get(&id)?["inputs"].as_object()
    }

    /// A value that is no link, or that of the primitive node it leads to.
    fn plain(&self, value: &Value) -> Option<Value> {
        match value {
            Value::Array(_) => {
                let inputs = self.inputs(value)?;
                let names = ["value", "seed", "int", "float", "text", "string"];
                names
                    .iter()
                    .find_map(|name| inputs.get(*name))
                    .filter(|v| !v.is_array())
                    .cloned()
            }
            value => Some(value.clone()),
        }
    }

    /// The input `wanted` of the node that `link` leads to, or of those behind it that lead on in
    /// the same direction.
    fn find(&self, link: &Value, wanted: &str, depth: usize) -> Option<&'a Value> {
        let inputs = self.inputs(link)?;
        let on = match wanted {
            "text" => &[
                "conditioning",
                "conditioning_1",
                "positive",
                "text",
                "text_g",
            ][..],
            "ckpt_name" => &["model"],
            _ => &["samples", "latent_image", "latent"],
        };
        match inputs.get(wanted) {
            Some(value) if !value.is_array() => Some(value),
            _ => {
                // One way on, so that no graph makes this long.
                let next = on
                    .iter()
                    .find_map(|name| inputs.get(*name).filter(|v| v.is_array()));
                self.find(next?, wanted, depth.checked_sub(1)?)
            }
        }
    }
}

/// `json` with the NaN of Python's writer as null.
fn without_nan(json: &str) -> String {
    let mut parts = json.split('"');
    let mut result = String::new();
    let mut inside = false;
    if let Some(first) = parts.next() {
        result += &first.replace("NaN", "null");
    }
    let mut before = "";
    for part in parts {
        // A quote behind an odd number of backslashes does not end a text.
        let escapes = before
            .bytes()
            .rev()
            .take_while(|byte| *byte == b'\\')
            .count();
        if !(inside && escapes % 2 == 1) {
            inside = !inside;
        }
        result.push('"');
        match inside {
            true => result += part,
            false => result += &part.replace("NaN", "null"),
        }
        before = part;
    }
    result
}

/// The record of InvokeAI, a flat object.
pub(super) fn invoke_ai(json: &str) -> Option<Record> {
    let all: Map<String, Value> = serde_json::from_str(json).ok()?;
    let get = |name: &str| all.get(name);
    let version = get("app_version").and_then(text).unwrap_or_default();
    let model = get("model");
    let of_model = |name: &str| model.and_then(|model| model.get(name)).and_then(text);
    Some(Record {
        software: Some(format!("InvokeAI {version}").trim_end().into()),
        model: of_model("name").or_else(|| of_model("model_name")),
        model_hash: of_model("hash"),
        prompt: get("positive_prompt").and_then(text)?,
        negative_prompt: get("negative_prompt").and_then(text),
        seed: get("seed").and_then(Value::as_u64),
        steps: get("steps").and_then(count),
        scheduler: get("scheduler").and_then(text),
        guidance_scale: get("cfg_scale").and_then(Value::as_f64),
        width: get("width").and_then(count),
        height: get("height").and_then(count),
        strength: get("strength").and_then(Value::as_f64),
        ..Record::default()
    })
}
