//! The layers by the kernels of `sd-gpu`, on devices that run CubeCL's.
//!
//! Burn computes products and convolutions; what stands between them is one launch each. As on the
//! CPU, pictures are channels-last in memory and look like `[n, channels, h, w]`.

mod attention;
#[cfg(all(test, feature = "wgpu"))]
mod tests;
mod trial;

pub(super) use attention::{attention, self_attention};
pub(super) use trial::{Kernel, has};

use std::ops::Range;

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor};
use sd_gpu::{Act, Behind};
use sd_kernels::Activation;

use super::{Conv2d, Epilogue, Geglu, GroupNorm, LayerNorm, Linear, plain};

pub(super) fn linear<const D: usize>(
    layer: &Linear,
    x: Tensor<D>,
    epilogue: Epilogue<D>,
) -> Tensor<D> {
    let dtype = x.dtype();
    let bias = layer.bias.as_ref().map(Param::val);
    let y = product(layer, x);
    match behind(bias, epilogue) {
        Some(behind) => sd_gpu::finish(y, behind, dtype),
        None => y,
    }
}

/// Without the bias.
fn product<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    let (mut shape, dtype, weight) = (x.dims(), x.dtype(), layer.weight.val());
    let [outputs, inputs] = weight.dims();
    let rows: usize = shape[..D - 1].iter().product();
    let y = sd_gpu::product(x.reshape([rows, inputs]), weight, true, dtype);
    shape[D - 1] = outputs;
    y.reshape(shape)
}

pub(super) fn geglu(layer: &Geglu, x: Tensor<3>) -> Tensor<3> {
    let bias = layer.proj.bias.as_ref().map(Param::val);
    sd_gpu::geglu(product(&layer.proj, x), bias)
}

pub(super) fn conv2d(
    layer: &Conv2d,
    x: Tensor<4>,
    doubled: bool,
    epilogue: Epilogue<4>,
) -> Tensor<4> {
    let dtype = x.dtype();
    let (x, padding) = plain::padded(layer, x, doubled);
    convolved(layer, x, padding, dtype, epilogue)
}

/// Some rows of the output from the strip `x`, whose first row is the input's row `top`.
pub(super) fn conv2d_rows(
    layer: &Conv2d,
    x: Tensor<4>,
    top: usize,
    rows: Range<usize>,
    epilogue: Epilogue<4>,
) -> Tensor<4> {
    let dtype = x.dtype();
    let (x, padding) = plain::padded_strip(layer, x, top, rows);
    convolved(layer, x, padding, dtype, epilogue)
}

/// The layer's product of a picture with `padding` zeros around it, and what comes behind it.
fn convolved(
    layer: &Conv2d,
    x: Tensor<4>,
    padding: [usize; 2],
    dtype: DType,
    epilogue: Epilogue<4>,
) -> Tensor<4> {
    let (weight, bias) = (layer.weight.val(), layer.bias.as_ref().map(Param::val));
    // A sum that is rounded behind the convolution anyway takes the bias along.
    let (inner, outer) = match dtype {
        DType::F32 => (bias, None),
        _ => (None, bias),
    };
    let gemms = match weight.dtype() == dtype {
        true => trial::gemms(&x.device(), dtype),
        false => Vec::new(),
    };
    let y = match &gemms[..] {
        [] => plain::product(layer, x, padding, inner),
        gemms => sd_gpu::convolution(x, weight, layer.stride, padding, gemms),
    };
    match behind(outer, epilogue) {
        Some(behind) => sd_gpu::finish_picture(y, behind, dtype),
        None if y.dtype() == dtype => y,
        None => sd_gpu::finish_picture(y, NOTHING, dtype),
    }
}

pub(super) fn layer_norm<const D: usize>(layer: &LayerNorm, x: Tensor<D>) -> Tensor<D> {
    sd_gpu::layer_norm(x, norm(layer))
}

fn norm(layer: &LayerNorm) -> sd_gpu::LayerNorm {
    sd_gpu::LayerNorm {
        weight: layer.weight.val(),
        bias: layer.bias.val(),
        epsilon: layer.epsilon,
    }
}

/// A linear layer's product, and what is still to come behind it.
#[derive(Debug)]
pub(super) struct Unfinished {
    product: Tensor<3>,
    bias: Option<Tensor<1>>,
    residual: Option<Tensor<3>>,
    dtype: DType,
}

impl Unfinished {
    pub(super) fn new(layer: &Linear, x: Tensor<3>, residual: Option<Tensor<3>>) -> Self {
        Self {
            dtype: x.dtype(),
            product: product(layer, x),
            bias: layer.bias.as_ref().map(Param::val),
            residual,
        }
    }

    /// The sum, and itself normalised.
    pub(super) fn normed(self, layer: &LayerNorm) -> [Tensor<3>; 2] {
        sd_gpu::finish_normed(
            self.product,
            self.bias,
            self.residual,
            norm(layer),
            self.dtype,
        )
    }

    pub(super) fn finished(self) -> Tensor<3> {
        let behind = Behind {
            bias: self.bias,
            shift: None,
            act: Act::None,
            residual: self.residual,
            rectified: false,
        };
        sd_gpu::finish(self.product, behind, self.dtype)
    }
}

pub(super) fn group_norm(layer: &GroupNorm, x: Tensor<4>, activation: Activation) -> Tensor<4> {
    let norm = sd_gpu::GroupNorm {
        weight: layer.weight.val(),
        bias: layer.bias.val(),
        groups: layer.groups,
        epsilon: layer.epsilon,
    };
    sd_gpu::group_norm(x, norm, act(activation))
}

/// A layer that makes what these three make without biases, on devices of the kernels. There is one
/// weight in memory: theirs become parts of it.
pub(super) fn join_products(mut layers: [&mut Linear; 3]) -> Option<Linear> {
    let shapes = layers.each_ref().map(|layer| layer.weight.lazy_shape());
    let alike = shapes.iter().all(|shape| *shape == shapes[0]);
    let biased = layers.iter().any(|layer| layer.bias.is_some());
    if !alike || biased || !sd_gpu::runs_on(&layers[0].weight.lazy_device()) {
        return None;
    }
    let [outputs, _] = shapes[0].dims();
    let weights = layers.each_ref().map(|layer| layer.weight.val());
    let weight = Tensor::cat(weights.into(), 0);
    for (i, layer) in layers.iter_mut().enumerate() {
        let part = weight.clone().narrow(0, i * outputs, outputs);
        layer.weight = Param::initialized(layer.weight.id, part);
    }
    Some(Linear::with(weight))
}

/// The precision in which a weight of so many dimensions is kept.
///
/// A convolution's is f32 unless a trial on the device found a way that reads half precision and adds
/// up in f32: Burn's direct convolution, which runs everywhere, adds up thousands of products in the
/// precision of what it multiplies.
pub(super) fn stored_dtype(rank: usize, device: &Device, dtype: DType) -> DType {
    let is_half = matches!(dtype, DType::F16 | DType::BF16);
    match is_half && rank == 4 && sd_gpu::runs_on(device) && !convolves(device, dtype) {
        true => DType::F32,
        false => dtype,
    }
}

/// True where pictures on `device` are convolved in half precision `dtype`.
pub(super) fn convolves(device: &Device, dtype: DType) -> bool {
    trial::has_on(Kernel::Picture, device, dtype) && !trial::gemms(device, dtype).is_empty()
}

/// A convolution's weight `[out, in, kernel, kernel]` whose numbers of a place in the kernel lie side
/// by side, as Burn's convolutions read it.
pub(super) fn channels_last<const D: usize>(weight: Tensor<D>) -> Tensor<D> {
    let shape = weight.dims();
    let [outputs, inputs, kernel] = [shape[0], shape[1], shape[2]];
    let last = weight
        .reshape([outputs, inputs, kernel * kernel])
        .swap_dims(1, 2);
    // A copy, for the numbers do not lie in this order.
    let last = last.reshape([outputs * kernel * kernel * inputs]);
    let last = last.reshape([outputs, kernel, kernel, inputs]);
    last.permute([0, 3, 1, 2]).reshape(shape)
}

const NOTHING: Behind<4> = Behind {
    bias: None,
    shift: None,
    act: Act::None,
    residual: None,
    rectified: false,
};

/// What comes behind a product, where anything does.
fn behind<const D: usize>(bias: Option<Tensor<1>>, epilogue: Epilogue<D>) -> Option<Behind<D>> {
    let behind = Behind {
        bias,
        shift: epilogue.shift,
        act: act(epilogue.activation),
        residual: epilogue.residual,
        rectified: epilogue.rectified,
    };
    let nothing = behind.bias.is_none()
        && behind.shift.is_none()
        && behind.act == Act::None
        && behind.residual.is_none()
        && !behind.rectified;
    (!nothing).then_some(behind)
}

fn act(activation: Activation) -> Act {
    match activation {
        Activation::None => Act::None,
        Activation::Silu => Act::Silu,
        Activation::Gelu => Act::Gelu,
        Activation::QuickGelu => Act::QuickGelu,
    }
}
