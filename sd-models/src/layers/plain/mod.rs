//! The layers by Burn's operations, on any backend. What half precision cannot hold is computed in
//! f32.

mod attention;
mod conv;
mod norm;

pub(crate) use attention::SCORES;
pub(super) use attention::attention;
pub(super) use conv::{conv2d, conv2d_rows, resize_nearest};
#[cfg(feature = "cubecl")]
pub(super) use conv::{padded, padded_strip, product};
pub(super) use norm::{group_norm, group_norm_rows, layer_norm, moments};

use burn::module::Param;
use burn::tensor::activation::{gelu, sigmoid, silu};
use burn::tensor::{DType, FloatDType, Tensor};
use sd_kernels::Activation;

use super::{Epilogue, Geglu, Linear};

/// `y`, a layer's product, and what comes behind it.
fn finish<const D: usize>(mut y: Tensor<D>, epilogue: Epilogue<D>) -> Tensor<D> {
    if let Some(shift) = epilogue.shift {
        y = y + shift;
    }
    y = activate(y, epilogue.activation);
    if let Some(residual) = epilogue.residual {
        y = residual + y;
    }
    if epilogue.rectified { rectify(y) } else { y }
}

/// Backends' own ReLU makes 0 of NaN, which would hide that something went wrong.
pub(super) fn rectify<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let negative = x.clone().lower_elem(0.0);
    x.mask_fill(negative, 0.0)
}

pub(super) fn activate<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    match activation {
        Activation::None => x,
        Activation::Silu => silu(x),
        Activation::Gelu => gelu(x),
        Activation::QuickGelu => x.clone() * sigmoid(x * 1.702),
    }
}

pub(super) fn linear<const D: usize>(
    layer: &Linear,
    x: Tensor<D>,
    epilogue: Epilogue<D>,
) -> Tensor<D> {
    let (weight, bias) = (layer.weight.val(), layer.bias.as_ref().map(Param::val));
    let y = burn::tensor::module::linear(x, weight.transpose(), bias);
    finish(y, epilogue)
}

pub(super) fn geglu(layer: &Geglu, x: Tensor<3>) -> Tensor<3> {
    let x = layer.proj.forward(x, Epilogue::NONE);
    let width = x.dims()[2] / 2;
    let gate = x.clone().narrow(2, width, width);
    x.narrow(2, 0, width) * gelu(gate)
}

pub(super) fn to_f32<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.dtype() == DType::F32 {
        x
    } else {
        x.cast(FloatDType::F32)
    }
}

pub(super) fn from_f32<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if dtype == DType::F32 {
        x
    } else {
        x.cast(dtype)
    }
}
