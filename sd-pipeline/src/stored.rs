//! Latents as safetensors files hold them: f32 `[n, c, h, w]`.

use std::borrow::Cow;

use burn::tensor::{DType, Device, Tensor, TensorData};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, View};

use crate::Result;

/// A tensor's values, read from its device, to be written to a file.
pub(crate) struct StoredTensor {
    shape: [usize; 4],
    bytes: Vec<u8>,
}

impl StoredTensor {
    /// # Errors
    /// Where the device does not give the values.
    pub(crate) fn from_tensor(tensor: &Tensor<4>) -> Result<Self> {
        let values = tensor.try_to_vec_as::<f32>();
        let values = values.map_err(|e| sd_core::Error::backend("reading the latents", e))?;
        Ok(Self {
            shape: tensor.dims(),
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        })
    }
}

impl View for StoredTensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bytes.as_slice().into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// The tensor `name` of a file, on `device`. The error is the reason in words.
pub(crate) fn tensor(
    name: &str,
    view: &TensorView<'_>,
    device: &Device,
) -> Result<Tensor<4>, String> {
    let (shape, dtype) = (view.shape(), view.dtype());
    let (Ok(shape), Dtype::F32) = (<[usize; 4]>::try_from(shape), dtype) else {
        return Err(format!(
            "'{name}' is {dtype:?} {shape:?}, expected F32 [n, c, h, w]"
        ));
    };
    let (values, _) = view.data().as_chunks::<4>();
    let values: Vec<f32> = values.iter().map(|b| f32::from_le_bytes(*b)).collect();
    // It would spread over the whole picture, and the autoencoder would be blamed.
    if values.iter().any(|v| !v.is_finite()) {
        return Err(format!("'{name}' holds a value that is not finite"));
    }
    let values = TensorData::new(values, shape);
    Ok(Tensor::from_data(values, (device, DType::F32)))
}
