use burn::tensor::Tensor;
use cubecl::prelude::*;

use crate::sums::sum_of_units;
use crate::tensor::{cube, cubes, elem, empty, reshaped, rows, tensor, units_for};

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
    let mut shared = Shared::<[f32]>::new_slice(units as usize);
    let width = width as usize;
    let first = row * width;

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

/// Each vector of the last dimension of `x`, normalised; `weight` and `bias` are of its width and of
/// one precision.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let shape = x.shape();
    let (x, weight, bias) = (rows(cube(x)), cube(weight), cube(bias));
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
        epsilon as f32,
        units,
        types,
    );
    tensor(reshaped(out, shape))
}
