use burn::tensor::{DType, Tensor};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::sums::sum_of_units;
use crate::tensor::{cube, cubes, elem, empty, in_precision, reshaped, rows, tensor, units_for};

/// A normalisation of each vector of the last dimension.
#[derive(Debug)]
pub struct LayerNorm {
    /// `[width]`.
    pub weight: Tensor<1>,
    /// `[width]`, of the weight's precision.
    pub bias: Tensor<1>,
    /// What is added to the variance.
    pub epsilon: f64,
}

/// The row of `x` that begins at `first`, normalised.
#[cube]
fn normalise<F: Float, W: Float>(
    x: &[F],
    weight: &[W],
    bias: &[W],
    out: &mut [F],
    first: usize,
    width: usize,
    epsilon: f32,
    #[comptime] units: u32,
) {
    let mut shared = Shared::<[f32]>::new_slice(units as usize);
    let mut sum = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < width {
        sum += f32::cast_from(x[first + i]);
        i += CUBE_DIM as usize;
    }
    let mean = sum_of_units(&mut shared, sum) / f32::cast_from(width);

    let mut squares = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < width {
        let centred = f32::cast_from(x[first + i]) - mean;
        squares += centred * centred;
        i += CUBE_DIM as usize;
    }
    let variance = sum_of_units(&mut shared, squares) / f32::cast_from(width);
    let factor = 1.0f32 / (variance + epsilon).sqrt();

    let mut i = UNIT_POS as usize;
    while i < width {
        let normed = (f32::cast_from(x[first + i]) - mean) * factor;
        let y = normed * f32::cast_from(weight[i]) + f32::cast_from(bias[i]);
        out[first + i] = F::cast_from(y);
        i += CUBE_DIM as usize;
    }
}

/// A cube normalises a row.
#[cube(launch)]
fn layer_norm_kernel<F: Float, W: Float>(
    x: &[F],
    weight: &[W],
    bias: &[W],
    out: &mut [F],
    rows: u32,
    width: u32,
    epsilon: f32,
    #[comptime] units: u32,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let width = width as usize;
    normalise::<F, W>(x, weight, bias, out, row * width, width, epsilon, units);
}

/// A cube finishes a row of a product, as [`finish`](crate::finish) does, and normalises the sum.
#[cube(launch)]
fn finish_normed_kernel<I: Float, B: Float, O: Float, W: Float>(
    product: &[I],
    behind: ComptimeOption<&[B]>,
    residual: ComptimeOption<&[O]>,
    weight: &[W],
    bias: &[W],
    sum: &mut [O],
    out: &mut [O],
    rows: u32,
    width: u32,
    epsilon: f32,
    #[comptime] units: u32,
    #[define(I, B, O, W)] _dtypes: [ElemType; 4],
) {
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let width = width as usize;
    let first = row * width;
    let mut i = UNIT_POS as usize;
    while i < width {
        let mut y = f32::cast_from(product[first + i]);
        #[comptime]
        match behind {
            ComptimeOption::Some(behind) => y += f32::cast_from(behind[i]),
            ComptimeOption::None => {}
        }
        #[comptime]
        match residual {
            ComptimeOption::Some(residual) => y += f32::cast_from(residual[first + i]),
            ComptimeOption::None => {}
        }
        // What each unit reads again below is what it has written here itself.
        sum[first + i] = O::cast_from(y);
        i += CUBE_DIM as usize;
    }
    normalise::<O, W>(&*sum, weight, bias, out, first, width, epsilon, units);
}

/// Each vector of the last dimension of `x`, normalised.
pub fn layer_norm<const D: usize>(x: Tensor<D>, norm: LayerNorm) -> Tensor<D> {
    let shape = x.shape();
    let (x, weight, bias) = (rows(cube(x)), cube(norm.weight), cube(norm.bias));
    let [all, width] = x.meta.shape().dims();
    let client = x.client.clone();
    let out = empty(&x, [all, width], x.dtype);
    let types = [elem(&x), elem(&weight)];
    let units = units_for(&client, width);
    let (count, dim) = cubes(&client, all, units);
    layer_norm_kernel::launch(
        &client,
        count,
        dim,
        x.into_buffer_arg(),
        weight.into_buffer_arg(),
        bias.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        all as u32,
        width as u32,
        norm.epsilon as f32,
        units,
        types,
    );
    tensor(reshaped(out, shape))
}

/// `product + bias + residual` in precision `dtype`, and that normalised.
pub fn finish_normed<const D: usize>(
    product: Tensor<D>,
    bias: Option<Tensor<1>>,
    residual: Option<Tensor<D>>,
    norm: LayerNorm,
    dtype: DType,
) -> [Tensor<D>; 2] {
    let shape = product.shape();
    let product = rows(cube(product));
    let [all, width] = product.meta.shape().dims();
    let client = product.client.clone();
    let bias = bias.map(cube);
    let residual = residual.map(|x| rows(cube(in_precision(x, dtype))));
    let (weight, norm_bias) = (cube(norm.weight), cube(norm.bias));
    let [sum, out] = [0, 1].map(|_| empty(&product, [all, width], dtype));
    let types = [
        elem(&product),
        bias.as_ref().map_or(elem(&product), elem),
        elem(&out),
        elem(&weight),
    ];
    let units = units_for(&client, width);
    let (count, dim) = cubes(&client, all, units);
    finish_normed_kernel::launch(
        &client,
        count,
        dim,
        product.into_buffer_arg(),
        bias.map(CubeTensor::into_buffer_arg).into(),
        residual.map(CubeTensor::into_buffer_arg).into(),
        weight.into_buffer_arg(),
        norm_bias.into_buffer_arg(),
        sum.clone().into_buffer_arg(),
        out.clone().into_buffer_arg(),
        all as u32,
        width as u32,
        norm.epsilon as f32,
        units,
        types,
    );
    [sum, out].map(|x| tensor(reshaped(x, shape.clone())))
}
