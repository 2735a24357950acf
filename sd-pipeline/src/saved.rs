//! A run on disk: stopped in one process, continued in another.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use safetensors::SafeTensors;
use sd_core::SamplerState;
use serde::{Deserialize, Serialize};

use crate::picture::write_whole;
use crate::stored::{self, StoredTensor};
use crate::{Error, Result};

/// The tensor that every saved run has.
const LATENTS: &str = "latents";
/// The solver's tensors are stored under this prefix.
const HISTORY: &str = "history.";
/// The metadata entry with [`Numbers`] as JSON.
const NUMBERS: &str = "run";

/// All of a [`Run`](crate::Run) that its request does not already determine.
#[derive(Debug)]
pub(crate) struct SavedRun {
    pub(crate) latents: Tensor<4>,
    pub(crate) sampler: SamplerState,
    /// Steps done.
    pub(crate) done: usize,
    /// Noise draws taken.
    pub(crate) draws: u64,
}

#[derive(Serialize, Deserialize)]
struct Numbers {
    done: usize,
    draws: u64,
    index: usize,
    solver: Vec<(String, f64)>,
}

impl SavedRun {
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let history = self.sampler.tensors.iter();
        let history = history.map(|(name, tensor)| (format!("{HISTORY}{name}"), tensor));
        let tensors = std::iter::once((LATENTS.to_string(), &self.latents)).chain(history);
        let tensors = tensors.map(|(name, tensor)| Ok((name, StoredTensor::from_tensor(tensor)?)));
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        let numbers = Numbers {
            done: self.done,
            draws: self.draws,
            index: self.sampler.index,
            solver: self.sampler.numbers.clone(),
        };
        let file = serialize(tensors, &numbers).map_err(|e| damaged(path, e.to_string()))?;
        write_whole(path, &file)
    }

    pub(crate) fn read(path: &Path, device: &Device) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let (numbers, mut tensors) =
            deserialize(&bytes, device).map_err(|reason| damaged(path, reason))?;
        let latents = tensors.iter().position(|(name, _)| name == LATENTS);
        let latents = latents.ok_or_else(|| damaged(path, format!("no tensor '{LATENTS}'")))?;
        let (_, latents) = tensors.swap_remove(latents);
        for (name, _) in &mut tensors {
            let bare = name.strip_prefix(HISTORY);
            *name = bare
                .ok_or_else(|| damaged(path, format!("'{name}' is of no use")))?
                .into();
        }
        let sampler = SamplerState {
            index: numbers.index,
            numbers: numbers.solver,
            tensors,
        };
        Ok(Self {
            latents,
            sampler,
            done: numbers.done,
            draws: numbers.draws,
        })
    }
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
