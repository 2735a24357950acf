use std::path::Path;

use burn::tensor::{Device, Tensor};
use safetensors::SafeTensors;

use crate::stored::{self, StoredTensor};
use crate::synchronized::synchronized;
use crate::{Error, OutputFile, Result};

/// The name of the one tensor in a latents file.
const NAME: &str = "latents";

/// Reads latents `[n, c, h, w]` from the tensor `latents` (f32) of a safetensors file.
///
/// # Errors
/// [`Error::Io`] and [`Error::Latents`], naming the file.
pub fn read_latents(path: impl AsRef<Path>, device: &Device) -> Result<Tensor<4>> {
    let path = path.as_ref();
    let wrong = |reason: String| Error::Latents {
        path: path.to_path_buf(),
        reason,
    };
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| wrong(e.to_string()))?;
    let view = file.tensor(NAME).map_err(|e| wrong(e.to_string()))?;
    stored::tensor(NAME, &view, device).map_err(wrong)
}

/// Writes latents `[n, c, h, w]` as the f32 tensor `latents` of a safetensors file, which appears
/// whole or not at all.
///
/// # Errors
/// [`Error::Io`] when the folder does not exist or cannot be written to, [`Error::Component`] when
/// the tensor cannot be read from its device.
pub fn write_latents(latents: &Tensor<4>, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let tensor = synchronized(&[&latents.device()], "reading the latents", || {
        StoredTensor::from_tensor(latents)
    })?;
    let file = safetensors::serialize([(NAME, tensor)], None).map_err(|e| Error::Latents {
        path: path.to_path_buf(),
        reason: e.to_string(),
    })?;
    OutputFile::write(path, &file)
}
