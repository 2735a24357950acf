//! Tensors from device to device.

use burn::tensor::{Device, Tensor};
use sd_core::{Error, Result};

/// `tensor` on `device`, by way of the host: two servers need not reach each other.
pub(crate) fn to_device<const D: usize>(tensor: Tensor<D>, device: &Device) -> Result<Tensor<D>> {
    if tensor.device() == *device {
        return Ok(tensor);
    }
    let dtype = tensor.dtype();
    let data = tensor.try_into_data();
    let data = data.map_err(|e| Error::backend("moving a tensor", e))?;
    Ok(Tensor::from_data(data, (device, dtype)))
}
