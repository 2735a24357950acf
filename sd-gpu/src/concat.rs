use burn::tensor::Tensor;
use cubecl::prelude::*;

use crate::tensor::{
    channels_last, channels_second, cube, elem, empty, reshaped, rows, tensor, units,
};

/// Pixels of `first` numbers and of `second`, side by side.
#[cube(launch)]
fn concat_kernel<F: Float>(
    a: &[F],
    b: &[F],
    out: &mut [F],
    first: u32,
    second: u32,
    elements: u32,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i >= elements as usize {
        terminate!();
    }
    let (first, second) = (first as usize, second as usize);
    let (pixel, channel) = (i / (first + second), i % (first + second));
    if channel < first {
        out[i] = a[pixel * first + channel];
    } else {
        out[i] = b[pixel * second + channel - first];
    }
}

/// Two pictures `[n, channels, h, w]` as one with the channels of both.
pub fn concat_channels(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    let ([n, first, h, w], [_, second, _, _]) = (a.dims(), b.dims());
    let [a, b] = [a, b].map(|x| rows(channels_last(cube(x))));
    let (client, dtype) = (a.client.clone(), elem(&a));
    let shape = [n, h, w, first + second];
    let out = empty(&a, shape, a.dtype);
    let elements = shape.iter().product();
    let (count, dim) = units(&client, elements);
    concat_kernel::launch(
        &client,
        count,
        dim,
        a.into_buffer_arg(),
        b.into_buffer_arg(),
        reshaped(out.clone(), [elements]).into_buffer_arg(),
        first as u32,
        second as u32,
        elements as u32,
        dtype,
    );
    tensor(channels_second(out))
}
