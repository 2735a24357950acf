//! The files of a folder that hold a model's weights.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::{Weights, insert, names};
use crate::files::{Files, is_plain};
use crate::{Error, Result};

/// `*.safetensors.index.json`: which of several files each tensor lies in.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Endings of files that hold weights, whoever can read them.
const WEIGHTS: [&str; 10] = [
    "safetensors",
    "bin",
    "ckpt",
    "pt",
    "pth",
    "gguf",
    "onnx",
    "msgpack",
    "h5",
    "npz",
];

/// The names that one variant's weights may have.
struct Names {
    single: String,
    indices: Vec<String>,
}

impl Names {
    /// Shards have the names that the index says, with the variant on either side of their number.
    fn new(stem: &str, variant: Option<&str>) -> Self {
        let Some(v) = variant else {
            return Self {
                single: format!("{stem}.safetensors"),
                indices: vec![format!("{stem}.safetensors.index.json")],
            };
        };
        Self {
            single: format!("{stem}.{v}.safetensors"),
            // As diffusers writes it today, as it did before, and as people name it by hand.
            indices: vec![
                format!("{stem}.safetensors.index.{v}.json"),
                format!("{stem}.safetensors.{v}.index.json"),
                format!("{stem}.{v}.safetensors.index.json"),
            ],
        }
    }

    /// Those of PyTorch checkpoints, which folders of before 2023 have alone. transformers' are
    /// not called as its safetensors files are.
    fn of_checkpoints(stem: &str, variant: Option<&str>) -> Self {
        let stem = match stem {
            "model" => "pytorch_model",
            stem => stem,
        };
        let Some(v) = variant else {
            return Self {
                single: format!("{stem}.bin"),
                indices: vec![format!("{stem}.bin.index.json")],
            };
        };
        Self {
            single: format!("{stem}.{v}.bin"),
            indices: vec![
                format!("{stem}.bin.index.{v}.json"),
                format!("{stem}.{v}.bin.index.json"),
            ],
        }
    }
}

/// `true` for the name of a file that holds weights.
fn is_weights(name: &str) -> bool {
    let ending = name.rsplit('.').next();
    ending.is_some_and(|ending| WEIGHTS.contains(&ending))
}

/// The variant that a file of weights, or an index, is of. Shards without an index have none: they
/// cannot be opened.
fn variant(name: &str) -> Option<&str> {
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        [stem, variant, "safetensors" | "bin"] if !is_shard(stem) && !is_shard(variant) => {
            Some(variant)
        }
        [_, "safetensors" | "bin", "index", variant, "json"]
        | [_, "safetensors" | "bin", variant, "index", "json"]
        | [_, variant, "safetensors" | "bin", "index", "json"] => Some(variant),
        _ => None,
    }
}

/// `true` for a name that ends in `-00001-of-00002`.
fn is_shard(name: &str) -> bool {
    let mut parts = name.rsplit('-');
    let [Some(count), Some("of"), Some(number)] = [parts.next(), parts.next(), parts.next()] else {
        return false;
    };
    let is_number = |part: &str| part.len() == 5 && part.bytes().all(|b| b.is_ascii_digit());
    is_number(count) && is_number(number)
}

impl Files {
    /// The weights of this folder. `stem` is `model` for what transformers saved and
    /// `diffusion_pytorch_model` for what diffusers did.
    ///
    /// With a `variant` (`fp16`) only its files will do: `{stem}.fp16.safetensors`, or
    /// `{stem}.safetensors.index.fp16.json` and its shards. Without, it is
    /// `{stem}.safetensors` or `{stem}.safetensors.index.json`, and where there is neither, the
    /// `fp16` files. Only where there are none of these, PyTorch's `{stem}.bin` is opened, which
    /// transformers calls `pytorch_model.bin`.
    ///
    /// # Errors
    /// [`Error::NoWeights`] when no such file is there; as [`Weights::open`] when one is damaged;
    /// [`Error::Json`] and [`Error::Safetensors`] when an index is not valid or does not agree
    /// with its shards.
    pub fn weights(&self, stem: &str, variant: Option<&str>) -> Result<Weights> {
        let variants = match variant {
            Some(_) => vec![variant],
            None => vec![None, Some("fp16")],
        };
        let mut tried = Vec::new();
        let safetensors = variants.iter().map(|v| (Names::new(stem, *v), true));
        let checkpoints = variants
            .iter()
            .map(|v| (Names::of_checkpoints(stem, *v), false));
        for (names, is_named) in safetensors.chain(checkpoints) {
            let Names { single, indices } = names;
            if let Some(located) = self.locate(&single) {
                return Weights::from_located(located);
            }
            if let Some(index) = indices.iter().find(|index| self.has(index)) {
                return self.sharded(index);
            }
            // The first index is the one that is written today.
            if is_named {
                tried.extend([single].into_iter().chain(indices.into_iter().take(1)));
            }
        }
        Err(self.no_weights(stem, tried))
    }

    /// `true` when there is a file of weights in this folder, whoever can read it.
    pub fn has_weights(&self) -> bool {
        self.names().iter().any(|name| is_weights(name))
    }

    /// Names of the files in this folder that hold no weights and do not list them, sorted.
    pub fn without_weights(&self) -> Vec<String> {
        let names = self.names().into_iter();
        names
            .filter(|name| !is_weights(name) && !name.contains(".index.") && self.has(name))
            .collect()
    }

    /// Variants of weights in this folder that can be asked for, sorted.
    pub fn variants(&self) -> Vec<String> {
        let names = self.names();
        let found: BTreeSet<&str> = names.iter().filter_map(|name| variant(name)).collect();
        found.into_iter().map(String::from).collect()
    }

    fn no_weights(&self, stem: &str, tried: Vec<String>) -> Error {
        let names = self.names();
        let mut variants = BTreeSet::new();
        let mut others = Vec::new();
        let listed = |name: &&String| is_weights(name) || name.contains(".index.");
        for name in names.iter().filter(listed) {
            match variant(name) {
                Some(variant) if name.split(['.', '-']).next() == Some(stem) => {
                    variants.insert(variant.to_string());
                }
                _ => others.push(name.clone()),
            }
        }
        Error::NoWeights {
            folder: self.path(""),
            tried,
            variants: variants.into_iter().collect(),
            others,
        }
    }

    fn sharded(&self, index: &str) -> Result<Weights> {
        let path = self.path(index);
        let Index { weight_map } = self.json(index)?;
        let shards: BTreeSet<&String> = weight_map.values().collect();
        let mut tensors = BTreeMap::new();
        for shard in shards {
            // An index must not lead out of its folder.
            if !is_plain(shard) {
                let reason = format!("{shard:?} is not the name of a file in this folder");
                return Err(Error::safetensors(path, reason));
            }
            let located = self.locate(shard).ok_or_else(|| {
                let missing = std::io::ErrorKind::NotFound.into();
                Error::io(self.path(shard), missing)
            })?;
            for (name, tensor) in Weights::from_located(located)?.tensors {
                insert(&mut tensors, &path, name, tensor)?;
            }
        }
        check_index(&path, &weight_map, &tensors.keys().collect())?;
        Ok(Weights { path, tensors })
    }
}

/// A shard that is of another model, or an index that is, shows as names on one side only.
fn check_index(
    path: &Path,
    weight_map: &BTreeMap<String, String>,
    found: &BTreeSet<&String>,
) -> Result<()> {
    let listed = weight_map.keys().filter_map(|name| names::current(name));
    let listed: BTreeSet<String> = listed.collect();
    if let Some(name) = listed.iter().find(|name| !found.contains(name)) {
        let reason = format!("tensor {name} is in none of the shards");
        return Err(Error::safetensors(path, reason));
    }
    if let Some(name) = found.iter().find(|name| !listed.contains(**name)) {
        let reason = format!("tensor {name} is in a shard and not in this index");
        return Err(Error::safetensors(path, reason));
    }
    Ok(())
}
