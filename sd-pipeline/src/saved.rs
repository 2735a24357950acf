//! A run on disk: stopped in one process, continued in another.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use safetensors::SafeTensors;
use sd_core::SavedState;
use serde::{Deserialize, Serialize};

use crate::run::{Passed, SavedSolving};
use crate::stored::{self, StoredTensor};
use crate::{Error, OutputFile, Result};

/// The tensor that every saved run has.
const LATENTS: &str = "latents";
/// Tensors are stored under these prefixes: the solver's, the guide's, those of each layer around
/// the model with its number behind, and the network's.
const SAMPLER: &str = "history.";
const GUIDE: &str = "guide.";
const LAYER: &str = "layer.";
const NETWORK: &str = "network.";
/// Before all names of a further image that is stepped by itself, with its number behind.
const IMAGE: &str = "image.";
/// The metadata entry with [`Numbers`] as JSON.
const NUMBERS: &str = "run";

/// All of a [`Run`](crate::Run) that its request does not already determine.
#[derive(Debug)]
pub(crate) struct SavedRun {
    pub(crate) latents: Tensor<4>,
    pub(crate) solving: SavedSolving,
    /// What the network remembers.
    pub(crate) network: SavedState,
    /// Steps done.
    pub(crate) done: usize,
    /// Noise draws taken.
    pub(crate) draws: u64,
    /// `true` of an image that is finished while others are not.
    pub(crate) finished: bool,
    /// The first pass, of a run in its second.
    pub(crate) passed: Option<Passed>,
    /// The other images, where each is stepped by itself.
    pub(crate) others: Vec<SavedRun>,
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
    #[serde(default)]
    network: Vec<(String, f64)>,
    #[serde(default)]
    finished: bool,
    #[serde(default)]
    passed: Option<Passed>,
    #[serde(default)]
    others: Vec<Numbers>,
}

impl SavedRun {
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let tensors = self.tensors("");
        let tensors = tensors
            .into_iter()
            .map(|(name, tensor)| Ok((name, StoredTensor::from_tensor(tensor)?)));
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        let numbers = self.numbers();
        let file = serialize(tensors, &numbers).map_err(|e| damaged(path, e.to_string()))?;
        OutputFile::write(path, &file)
    }

    pub(crate) fn read(path: &Path, device: &Device) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let (numbers, mut tensors) =
            deserialize(&bytes, device).map_err(|reason| damaged(path, reason))?;
        let run = Self::of(numbers, &mut tensors, "").map_err(|reason| damaged(path, reason))?;
        if let Some((name, _)) = tensors.first() {
            return Err(damaged(path, format!("'{name}' is of no use")));
        }
        Ok(run)
    }

    /// All tensors, with `prefix` before their names.
    fn tensors(&self, prefix: &str) -> Vec<(String, &Tensor<4>)> {
        let SavedSolving {
            sampler,
            guide,
            layers,
        } = &self.solving;
        let layer = |(k, state)| named(format!("{prefix}{LAYER}{k}."), state);
        let mut tensors = vec![(format!("{prefix}{LATENTS}"), &self.latents)];
        tensors.extend(named(format!("{prefix}{SAMPLER}"), sampler));
        tensors.extend(named(format!("{prefix}{GUIDE}"), guide));
        tensors.extend(layers.iter().enumerate().flat_map(layer));
        tensors.extend(named(format!("{prefix}{NETWORK}"), &self.network));
        for (k, run) in self.others.iter().enumerate() {
            tensors.extend(run.tensors(&format!("{prefix}{IMAGE}{k}.")));
        }
        tensors
    }

    fn numbers(&self) -> Numbers {
        let SavedSolving {
            sampler,
            guide,
            layers,
        } = &self.solving;
        Numbers {
            done: self.done,
            draws: self.draws,
            solver: sampler.numbers.clone(),
            guide: guide.numbers.clone(),
            layers: layers.iter().map(|state| state.numbers.clone()).collect(),
            network: self.network.numbers.clone(),
            finished: self.finished,
            passed: self.passed,
            others: self.others.iter().map(Self::numbers).collect(),
        }
    }

    /// The run with `numbers`, whose tensors have `prefix` before their names and are taken.
    fn of(
        numbers: Numbers,
        tensors: &mut Named,
        prefix: &str,
    ) -> std::result::Result<Self, String> {
        let others = numbers.others.into_iter().enumerate();
        let others =
            others.map(|(k, other)| Self::of(other, tensors, &format!("{prefix}{IMAGE}{k}.")));
        let others = others.collect::<std::result::Result<_, _>>()?;
        let latents = format!("{prefix}{LATENTS}");
        let found = tensors.iter().position(|(name, _)| *name == latents);
        let found = found.ok_or_else(|| format!("no tensor '{latents}'"))?;
        let (_, latents) = tensors.swap_remove(found);
        let mut take = |part: &str, numbers| {
            let part = format!("{prefix}{part}");
            SavedState {
                numbers,
                tensors: (tensors.extract_if(.., |(name, _)| name.starts_with(&part)))
                    .map(|(name, tensor)| (name[part.len()..].to_string(), tensor))
                    .collect(),
            }
        };
        let layers = numbers.layers.into_iter().enumerate();
        Ok(Self {
            latents,
            solving: SavedSolving {
                sampler: take(SAMPLER, numbers.solver),
                guide: take(GUIDE, numbers.guide),
                layers: (layers.map(|(k, numbers)| take(&format!("{LAYER}{k}."), numbers)))
                    .collect(),
            },
            network: take(NETWORK, numbers.network),
            done: numbers.done,
            draws: numbers.draws,
            finished: numbers.finished,
            passed: numbers.passed,
            others,
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
