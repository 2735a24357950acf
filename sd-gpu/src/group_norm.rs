use burn::tensor::Tensor;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::epilogue::{Act, activated};
use crate::sums::sum_of_units;
use crate::tensor::{
    channels_last, channels_second, cube, cubes, elem, empty, reshaped, tensor, units_for,
};

/// A normalisation of groups of channels over the whole picture.
#[derive(Debug)]
pub struct GroupNorm {
    /// `[channels]`.
    pub weight: Tensor<1>,
    /// `[channels]`, of the weight's precision.
    pub bias: Tensor<1>,
    /// A divisor of the channels.
    pub groups: usize,
    /// What is added to the variance.
    pub epsilon: f64,
}

/// A cube normalises a group of a sample. Pixels lie `pixel` numbers apart in memory, channels
/// `channel` and samples `sample`; what is made has its channels last.
#[cube(launch)]
fn group_norm_kernel<F: Float, W: Float>(
    x: &[F],
    weight: &[W],
    bias: &[W],
    out: &mut [F],
    sample: u32,
    pixel: u32,
    channel: u32,
    pixels: u32,
    width: u32,
    groups: u32,
    all: u32,
    epsilon: f32,
    #[comptime] act: Act,
    #[comptime] units: u32,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let cube = CUBE_POS;
    if cube >= all as usize {
        terminate!();
    }
    let mut shared = Shared::<[f32]>::new_slice(units as usize);
    let (groups, width) = (groups as usize, width as usize);
    let (pixel, channel) = (pixel as usize, channel as usize);
    let (n, group) = (cube / groups, cube % groups);
    let first = n * sample as usize + group * width * channel;
    let elements = pixels as usize * width;
    let channels = groups * width;
    let out_first = n * pixels as usize * channels + group * width;

    let mut sum = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < elements {
        sum += f32::cast_from(x[first + i / width * pixel + i % width * channel]);
        i += CUBE_DIM as usize;
    }
    let mean = sum_of_units(&mut shared, sum) / f32::cast_from(elements);

    let mut squares = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < elements {
        let value = f32::cast_from(x[first + i / width * pixel + i % width * channel]);
        let centred = value - mean;
        squares += centred * centred;
        i += CUBE_DIM as usize;
    }
    let variance = sum_of_units(&mut shared, squares) / f32::cast_from(elements);
    let factor = 1.0f32 / (variance + epsilon).sqrt();

    let mut i = UNIT_POS as usize;
    while i < elements {
        let (at, c) = (i / width, i % width);
        let value = f32::cast_from(x[first + at * pixel + c * channel]);
        let normed = (value - mean) * factor;
        let of = group * width + c;
        let y = normed * f32::cast_from(weight[of]) + f32::cast_from(bias[of]);
        out[out_first + at * channels + c] = F::cast_from(activated(y, act));
        i += CUBE_DIM as usize;
    }
}

/// A picture `[n, channels, h, w]`, normalised and through `act`.
pub fn group_norm(x: Tensor<4>, norm: GroupNorm, act: Act) -> Tensor<4> {
    let [n, channels, h, w] = x.dims();
    let x = evenly_spaced(channels_last(cube(x)));
    let strides: [usize; 4] = std::array::from_fn(|i| x.meta.strides()[i]);
    let (client, groups) = (x.client.clone(), norm.groups);
    let (weight, bias) = (cube(norm.weight), cube(norm.bias));
    let out = empty(&x, [n, h, w, channels], x.dtype);
    let types = [elem(&x), elem(&weight)];
    let width = channels / groups;
    let units = units_for(&client, h * w * width);
    let (count, dim) = cubes(&client, n * groups, units);
    group_norm_kernel::launch(
        &client,
        count,
        dim,
        x.into_buffer_arg(),
        weight.into_buffer_arg(),
        bias.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        strides[0] as u32,
        strides[2] as u32,
        strides[3] as u32,
        (h * w) as u32,
        width as u32,
        groups as u32,
        (n * groups) as u32,
        norm.epsilon as f32,
        act,
        units,
        types,
    );
    tensor(channels_second(reshaped(out, [n, h, w, channels])))
}

/// `x`, `[n, h, w, channels]`, whose rows lie behind each other as its pixels do.
fn evenly_spaced(x: CubeTensor) -> CubeTensor {
    let (shape, strides) = (x.meta.shape(), x.meta.strides());
    match shape[1] == 1 || strides[1] == shape[2] * strides[2] {
        true => x,
        false => into_contiguous(x),
    }
}
