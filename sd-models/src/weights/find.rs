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

impl Files {
    /// The weights of this folder. `stem` is `model` for what transformers saved and
    /// `diffusion_pytorch_model` for what diffusers did.
    ///
    /// With a `variant` (`fp16`) only its files will do: `{stem}.fp16.safetensors`, or
    /// `{stem}.safetensors.index.fp16.json` and its shards. Without, it is
    /// `{stem}.safetensors` or `{stem}.safetensors.index.json`, and where there is neither, the
    /// `fp16` files.
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
        for variant in variants {
            let [single, index] = match variant {
                Some(v) => [
                    format!("{stem}.{v}.safetensors"),
                    format!("{stem}.safetensors.index.{v}.json"),
                ],
                None => [
                    format!("{stem}.safetensors"),
                    format!("{stem}.safetensors.index.json"),
                ],
            };
            if let Some(located) = self.locate(&single) {
                return Weights::from_located(located);
            }
            if self.has(&index) {
                return self.sharded(&index);
            }
            tried.extend([single, index]);
        }
        Err(Error::NoWeights {
            folder: self.path(""),
            tried,
        })
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
            let located = self.locate(shard).ok_or_else(|| Error::Io {
                path: self.path(shard),
                source: std::io::ErrorKind::NotFound.into(),
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
