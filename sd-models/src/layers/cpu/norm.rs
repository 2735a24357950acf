use burn::tensor::Tensor;
use sd_kernels::{Activation, Isa, Moments, take_output};

use super::expect_shapes;
use super::pictures::{Rows, collect_rows};
use super::values::{lend_pixels, picture, pixels, tensor, values};
use crate::layers::{GroupNorm, Input, LayerNorm};

/// In place where the picture is given.
pub(in crate::layers) fn group_norm(
    layer: &GroupNorm,
    x: Input<'_, 4>,
    activation: Activation,
) -> Tensor<4> {
    let ([n, c, h, w], device) = (x.get().dims(), x.get().device());
    let isa = Isa::best();
    with(layer, activation, |norm| match x {
        Input::Given(x) => {
            let mut x = pixels(x);
            expect_shapes(sd_kernels::group_norm_in_place(isa, &mut x, n, h * w, norm));
            x.into_picture(&device)
        }
        Input::Lent(x) => lend_pixels(x, |x| {
            let mut out = take_output(x.len());
            expect_shapes(sd_kernels::group_norm(isa, x, n, h * w, norm, &mut out));
            picture(out, [n, h, w, c], &device)
        }),
    })
}

/// Of `rows` of a picture whose `moments` are known.
pub(in crate::layers) fn group_norm_rows<'a>(
    layer: &GroupNorm,
    rows: impl Iterator<Item = Rows<'a>>,
    moments: &Moments,
    activation: Activation,
) -> Tensor<4> {
    let isa = Isa::best();
    with(layer, activation, |norm| {
        collect_rows(rows, |x, out| {
            expect_shapes(sd_kernels::group_norm_with(isa, x, moments, norm, out));
        })
    })
}

/// Calls `run` with the layer as the kernels take it.
pub(super) fn with<R>(
    layer: &GroupNorm,
    activation: Activation,
    run: impl FnOnce(sd_kernels::GroupNorm<'_>) -> R,
) -> R {
    let (weight, bias) = (values(layer.weight.val()), values(layer.bias.val()));
    run(sd_kernels::GroupNorm {
        weight: &weight,
        bias: &bias,
        groups: layer.groups,
        epsilon: layer.epsilon as f32,
        activation,
    })
}

/// The moments of a picture `[1, channels, h, w]`.
pub(in crate::layers) fn moments(x: &mut Tensor<4>) -> Moments {
    let channels = x.dims()[1];
    lend_pixels(x, |x| expect_shapes(Moments::of(Isa::best(), x, channels)))
}

pub(in crate::layers) fn layer_norm<const D: usize>(
    layer: &LayerNorm,
    x: Input<'_, D>,
) -> Tensor<D> {
    let (dims, device) = (x.get().dims(), x.get().device());
    let rows = dims[..D - 1].iter().product();
    let (weight, bias) = (values(layer.weight.val()), values(layer.bias.val()));
    let (isa, epsilon) = (Isa::best(), layer.epsilon as f32);
    x.read(|x| {
        let mut out = take_output(x.len());
        expect_shapes(sd_kernels::layer_norm(
            isa, x, rows, &weight, &bias, epsilon, &mut out,
        ));
        tensor(out, dims, &device)
    })
}
