use burn::tensor::{DType, Tensor};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::tensor::{
    channels_last, channels_second, cube, elem, empty, in_precision, reshaped, rows, tensor, units,
};

/// A function that each number goes through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Act {
    /// The number itself.
    #[default]
    None,
    /// `x·σ(x)`.
    Silu,
    /// `x·Φ(x)`.
    Gelu,
    /// `x·σ(1.702·x)`.
    QuickGelu,
}

/// Operations behind a product: `act(product + bias + shift) + residual`.
#[derive(Debug)]
pub struct Behind<const D: usize> {
    /// One number per channel.
    pub bias: Option<Tensor<1>>,
    /// One number per channel and sample, or per channel: of the product's dimensions, those are 1
    /// that it is the same along.
    pub shift: Option<Tensor<D>>,
    /// The function that each sum goes through.
    pub act: Act,
    /// A tensor of the product's shape.
    pub residual: Option<Tensor<D>>,
    /// `true` when results below zero become zero, and NaN stays NaN.
    pub rectified: bool,
}

/// `x` through `act`.
#[cube]
pub(crate) fn activated(x: f32, #[comptime] act: Act) -> f32 {
    match comptime!(act) {
        Act::None => x,
        Act::Silu => x / (1.0f32 + (-x).exp()),
        Act::Gelu => gelu::<f32>(x),
        Act::QuickGelu => x / (1.0f32 + (-1.702f32 * x).exp()),
    }
}

/// `x·Φ(x)`, as torch's without its `tanh` approximation.
#[cube]
pub(crate) fn gelu<F: Float>(x: F) -> F {
    let half = F::new(0.5f32) * x;
    half + half * (x * F::new(std::f32::consts::FRAC_1_SQRT_2)).erf()
}

#[cube(launch)]
fn finish_kernel<I: Float, W: Float, O: Float>(
    product: &[I],
    bias: ComptimeOption<&[W]>,
    shift: ComptimeOption<&[W]>,
    residual: ComptimeOption<&[O]>,
    out: &mut [O],
    channels: u32,
    sample: u32,
    shift_step: u32,
    elements: u32,
    #[comptime] act: Act,
    #[comptime] rectified: bool,
    #[define(I, W, O)] _dtypes: [ElemType; 3],
) {
    let i = ABSOLUTE_POS;
    if i >= elements as usize {
        terminate!();
    }
    let channel = i % channels as usize;
    let at = i / sample as usize * shift_step as usize + channel;
    let mut y = f32::cast_from(product[i]);
    #[comptime]
    match bias {
        ComptimeOption::Some(bias) => y += f32::cast_from(bias[channel]),
        ComptimeOption::None => {}
    }
    #[comptime]
    match shift {
        ComptimeOption::Some(shift) => y += f32::cast_from(shift[at]),
        ComptimeOption::None => {}
    }
    y = activated(y, act);
    #[comptime]
    match residual {
        ComptimeOption::Some(residual) => y += f32::cast_from(residual[i]),
        ComptimeOption::None => {}
    }
    if comptime!(rectified) {
        // Not the larger of both, which would make 0 of NaN.
        if y < 0.0f32 {
            y = 0.0f32;
        }
    }
    out[i] = O::cast_from(y);
}

/// Tokens `[…, channels]` and what comes behind their product, in precision `dtype`.
pub fn finish<const D: usize>(product: Tensor<D>, behind: Behind<D>, dtype: DType) -> Tensor<D> {
    let shape = product.shape();
    let out = finished(rows(cube(product)), behind, dtype, rows);
    tensor(reshaped(out, shape))
}

/// A picture `[n, channels, h, w]` and what comes behind its product, in precision `dtype`.
pub fn finish_picture(product: Tensor<4>, behind: Behind<4>, dtype: DType) -> Tensor<4> {
    let [n, channels, h, w] = product.dims();
    let last = |x| rows(channels_last(x));
    let out = finished(last(cube(product)), behind, dtype, last);
    tensor(channels_second(reshaped(out, [n, h, w, channels])))
}

/// `flat` makes rows of what comes behind.
fn finished<const D: usize>(
    product: CubeTensor,
    behind: Behind<D>,
    dtype: DType,
    flat: impl Fn(CubeTensor) -> CubeTensor,
) -> CubeTensor {
    let [all, channels] = product.meta.shape().dims();
    let shift = behind.shift.map(|shift| shift.flatten::<1>(0, D - 1));
    // Bias and shift are read as numbers of one precision.
    let weights = behind.bias.as_ref().or(shift.as_ref());
    let weights = weights.map_or(product.dtype, Tensor::dtype);
    let row = |x: Tensor<1>| rows(cube(in_precision(x, weights)));
    let (bias, shift) = (behind.bias.map(row), shift.map(row));
    let residual = behind.residual.map(|x| flat(cube(in_precision(x, dtype))));
    let samples = shift
        .as_ref()
        .map_or(1, |x| x.meta.num_elements() / channels);
    let weights = bias
        .as_ref()
        .or(shift.as_ref())
        .map_or(elem(&product), elem);
    let out = empty(&product, [all, channels], dtype);
    let types = [elem(&product), weights, elem(&out)];
    let elements = all * channels;
    let (count, dim) = units(&product.client, elements);
    let client = product.client.clone();
    finish_kernel::launch(
        &client,
        count,
        dim,
        product.into_buffer_arg(),
        bias.map(CubeTensor::into_buffer_arg).into(),
        shift.map(CubeTensor::into_buffer_arg).into(),
        residual.map(CubeTensor::into_buffer_arg).into(),
        out.clone().into_buffer_arg(),
        channels as u32,
        (elements / samples) as u32,
        if samples == 1 { 0 } else { channels as u32 },
        elements as u32,
        behind.act,
        behind.rectified,
        types,
    );
    out
}
