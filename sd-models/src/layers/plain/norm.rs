use burn::module::Param;
use burn::tensor::{DType, Tensor, TensorData};
use sd_kernels::{Activation, Moments};

use super::{activate, from_f32, to_f32};
use crate::layers::{GroupNorm, LayerNorm};

/// In f32 whatever the precision of `x`: the square of a number above 256 overflows in f16.
pub(in crate::layers) fn layer_norm<const D: usize>(layer: &LayerNorm, x: Tensor<D>) -> Tensor<D> {
    let dtype = x.dtype();
    let (weight, bias) = (to_f32(layer.weight.val()), to_f32(layer.bias.val()));
    let x = burn::tensor::module::layer_norm(to_f32(x), weight, Some(bias), layer.epsilon);
    from_f32(x, dtype)
}

/// With statistics in f32 whatever the precision of `x`: a sum of squares over a whole picture
/// overflows in f16.
pub(in crate::layers) fn group_norm(
    layer: &GroupNorm,
    x: Tensor<4>,
    activation: Activation,
) -> Tensor<4> {
    let ([n, c, h, w], dtype) = (x.dims(), x.dtype());
    let x = to_f32(x).reshape([n, layer.groups, c / layer.groups * h, w]);
    let (variance, mean) = variance_and_mean(x.clone());
    let x = (x - mean) / (variance + layer.epsilon).sqrt();
    let x = x.reshape([n, c, h, w]) * per_channel(&layer.weight) + per_channel(&layer.bias);
    activate(from_f32(x, dtype), activation)
}

/// [`group_norm`] of some rows `x` of a picture whose `moments` are known.
pub(in crate::layers) fn group_norm_rows(
    layer: &GroupNorm,
    x: Tensor<4>,
    moments: &Moments,
    activation: Activation,
) -> Tensor<4> {
    let ([_, c, _, _], dtype, device) = (x.dims(), x.dtype(), x.device());
    let (mut means, mut factors) = (Vec::with_capacity(c), Vec::with_capacity(c));
    for (mean, variance) in moments.groups(layer.groups) {
        let factor = 1.0 / (variance + layer.epsilon).sqrt();
        means.extend(std::iter::repeat_n(mean as f32, c / layer.groups));
        factors.extend(std::iter::repeat_n(factor as f32, c / layer.groups));
    }
    let upload = |x: Vec<f32>| {
        let data = TensorData::new(x, [1, c, 1, 1]);
        Tensor::<4>::from_data(data, (&device, DType::F32))
    };
    let x = (to_f32(x) - upload(means)) * (upload(factors) * per_channel(&layer.weight));
    activate(from_f32(x + per_channel(&layer.bias), dtype), activation)
}

/// Variances and means of a picture's channels, `[channels, 2]`, on its device.
pub(in crate::layers) fn moments(x: Tensor<4>) -> Tensor<2> {
    let channels = x.dims()[1];
    let (variance, mean) = variance_and_mean(to_f32(x));
    Tensor::cat(vec![variance, mean], 3).reshape([channels, 2])
}

fn per_channel(parameter: &Param<Tensor<1>>) -> Tensor<4> {
    let values = to_f32(parameter.val());
    let channels = values.dims()[0];
    values.reshape([1, channels, 1, 1])
}

/// Of the last two dimensions of `x`, which become 1.
///
/// One dimension after the other: some backends add a row from its beginning to its end, and a sum
/// of a picture's million squares in f32 would be wrong in the fourth digit.
fn variance_and_mean(x: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let mean = x.clone().mean_dim(3).mean_dim(2);
    let centred = x - mean.clone();
    let variance = (centred.clone() * centred).mean_dim(3).mean_dim(2);
    (variance, mean)
}
