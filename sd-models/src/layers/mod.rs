//! The elementary layers, with the field names and weight layouts of PyTorch checkpoints.
//!
//! Keeping torch's names (`weight`, `bias`) and layouts (a linear weight is `[out, in]`) means a
//! checkpoint's tensors go into the modules as they are: no renaming, no transposition.

mod conv;
mod embedding;
mod linear;
mod norm;

pub use conv::{Conv2d, Padding};
pub use embedding::Embedding;
pub use linear::Linear;
pub use norm::{GroupNorm, LayerNorm};

use burn::module::Param;
use burn::tensor::{Device, Shape, Tensor};

/// A parameter of the given shape that takes no memory until weights are loaded into it.
fn parameter<const D: usize>(shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Param::uninitialized(
        burn::module::ParamId::new(),
        move |device, _| Tensor::zeros(shape, device),
        device.clone(),
        false,
        Shape::from(shape),
    )
}
