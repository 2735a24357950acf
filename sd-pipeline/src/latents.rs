use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::picture::write_whole;
use crate::synchronized::synchronized;
use crate::{Error, Result};

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
    let (shape, dtype) = (view.shape(), view.dtype());
    let (Ok(shape), Dtype::F32) = (<[usize; 4]>::try_from(shape), dtype) else {
        let reason = format!("'{NAME}' is {dtype:?} {shape:?}, expected F32 [n, c, h, w]");
        return Err(wrong(reason));
    };
    let (values, _) = view.data().as_chunks::<4>();
    let values: Vec<f32> = values.iter().map(|b| f32::from_le_bytes(*b)).collect();
    if values.iter().any(|v| !v.is_finite()) {
        return Err(wrong(format!("'{NAME}' holds a value that is not finite")));
    }
    Ok(Tensor::from_data(
        TensorData::new(values, shape),
        (device, DType::F32),
    ))
}

/// Writes latents `[n, c, h, w]` as the f32 tensor `latents` of a safetensors file, which appears
/// whole or not at all.
///
/// # Errors
/// [`Error::Io`] when the folder does not exist or cannot be written to, [`Error::Component`] when
/// the tensor cannot be read from its device.
pub fn write_latents(latents: &Tensor<4>, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let values = synchronized(&[&latents.device()], "reading the latents", || {
        let values = latents.try_to_vec_as::<f32>();
        Ok(values.map_err(|e| sd_core::Error::backend("reading the latents", e))?)
    })?;
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let invalid = |e: safetensors::SafeTensorError| Error::Latents {
        path: path.to_path_buf(),
        reason: e.to_string(),
    };
    let view = TensorView::new(Dtype::F32, latents.dims().to_vec(), &bytes).map_err(invalid)?;
    let file = safetensors::serialize([(NAME, view)], None).map_err(invalid)?;
    write_whole(path, &file)
}
