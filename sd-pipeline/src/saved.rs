//! A run on disk: stopped in one process, continued in another.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use safetensors::SafeTensors;
use sd_core::SavedState;
use serde::{Deserialize, Serialize};

use crate::run::SavedSolving;
use crate::stored::{self, StoredTensor};
use crate::{Error, OutputFile, Result};

/// The tensor that every saved run has.
const LATENTS: &str = "latents";
/// Tensors are stored under these prefixes: the solver's, the guide's, and those of each layer
/// around the model with its number behind.
const SAMPLER: &str = "history.";
const GUIDE: &str = "guide.";
const LAYER: &str = "layer.";
/// The metadata entry with [`Numbers`] as JSON.
const NUMBERS: &str = "run";

/// All of a [`Run`](crate::Run) that its request does not already determine.
#[derive(Debug)]
pub(crate) struct SavedRun {
    pub(crate) latents: Tensor<4>,
    pub(crate) solving: SavedSolving,
    /// Steps done.
    pub(crate) done: usize,
    /// Noise draws taken.
    pub(crate) draws: u64,
}

#[derive(Serialize, Deserialize)]
struct Numbers {
    done: usize,
    draws: u64,
    solver: Vec<(String, f64)>,
    #[serde(default)]
    guide: Vec<(String, f64)>,
    #[serde(default)]
    layers: Vec<Vec<(String, f64)>>,
}

impl SavedRun {
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let SavedSolving {
            sampler,
            guide,
            layers,
        } = &self.solving;
        let layer = |(k, state)| named(format!("{LAYER}{k}."), state);
        let tensors = std::iter::once((LATENTS.to_string(), &self.latents))
            .chain(named(SAMPLER.into(), sampler))
            .chain(named(GUIDE.into(), guide))
            .chain(layers.iter().enumerate().flat_map(layer));
        let tensors = tensors.map(|(name, tensor)| Ok((name, StoredTensor::from_tensor(tensor)?)));
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        let numbers = Numbers {
            done: self.done,
            draws: self.draws,
            solver: sampler.numbers.clone(),
            guide: guide.numbers.clone(),
            layers: layers.iter().map(|state| state.numbers.clone()).collect(),
        };
        let file = serialize(tensors, &numbers).map_err(|e| damaged(path, e.to_string()))?;
        OutputFile::write(path, &file)
    }

    pub(crate) fn read(path: &Path, device: &Device) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let (numbers, mut tensors) =
            deserialize(&bytes, device).map_err(|reason| damaged(path, reason))?;
        let latents = tensors.iter().position(|(name, _)| name == LATENTS);
        let latents = latents.ok_or_else(|| damaged(path, format!("no tensor '{LATENTS}'")))?;
        let (_, latents) = tensors.swap_remove(latents);
        let mut take = |prefix: &str, numbers| SavedState {
            numbers,
            tensors: (tensors.extract_if(.., |(name, _)| name.starts_with(prefix)))
                .map(|(name, tensor)| (name[prefix.len()..].to_string(), tensor))
                .collect(),
        };
        let layers = numbers.layers.into_iter().enumerate();
        let solving = SavedSolving {
            sampler: take(SAMPLER, numbers.solver),
            guide: take(GUIDE, numbers.guide),
            layers: (layers.map(|(k, numbers)| take(&format!("{LAYER}{k}."), numbers))).collect(),
        };
        if let Some((name, _)) = tensors.first() {
            return Err(damaged(path, format!("'{name}' is of no use")));
        }
        Ok(Self {
            latents,
            solving,
            done: numbers.done,
            draws: numbers.draws,
        })
    }
}

/// The tensors of `state` with `prefix` before their names.
fn named(prefix: String, state: &SavedState) -> impl Iterator<Item = (String, &Tensor<4>)> {
    let tensors = state.tensors.iter();
    tensors.map(move |(name, tensor)| (format!("{prefix}{name}"), tensor))
}

fn damaged(path: &Path, reason: String) -> Error {
    Error::SavedRun {
        path: path.to_path_buf(),
        reason,
    }
}

fn serialize(
    tensors: Vec<(String, StoredTensor)>,
    numbers: &Numbers,
) -> std::result::Result<Vec<u8>, sd_core::BoxError> {
    let metadata = (NUMBERS.to_string(), serde_json::to_string(numbers)?);
    Ok(safetensors::serialize(tensors, Some([metadata].into()))?)
}

type Named = Vec<(String, Tensor<4>)>;

fn deserialize(bytes: &[u8], device: &Device) -> std::result::Result<(Numbers, Named), String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    let numbers = header.metadata().as_ref().and_then(|m| m.get(NUMBERS));
    let numbers = numbers.ok_or("it is no saved run: the metadata lacks 'run'")?;
    let numbers = serde_json::from_str(numbers).map_err(|e| format!("metadata 'run': {e}"))?;
    let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let tensor = stored::tensor(&name, &view, device)?;
        Ok::<_, String>((name, tensor))
    });
    Ok((numbers, tensors.collect::<std::result::Result<_, _>>()?))
}
