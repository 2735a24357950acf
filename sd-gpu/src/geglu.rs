use burn::tensor::Tensor;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::epilogue::gelu;
use crate::tensor::{cube, elem, empty, reshaped, rows, tensor, units};

#[cube(launch)]
fn geglu_kernel<F: Float, W: Float>(
    product: &[F],
    bias: ComptimeOption<&[W]>,
    out: &mut [F],
    width: u32,
    elements: u32,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let i = ABSOLUTE_POS;
    if i >= elements as usize {
        terminate!();
    }
    let width = width as usize;
    let channel = i % width;
    let at = i / width * 2 * width + channel;
    let mut x = f32::cast_from(product[at]);
    let mut gate = f32::cast_from(product[at + width]);
    #[comptime]
    match bias {
        ComptimeOption::Some(bias) => {
            x += f32::cast_from(bias[channel]);
            gate += f32::cast_from(bias[channel + width]);
        }
        ComptimeOption::None => {}
    }
    out[i] = F::cast_from(x * gelu::<f32>(gate));
}

/// The first half of tokens `[n, tokens, 2 · width]`, with `bias` added, times the GELU of the second.
pub fn geglu(product: Tensor<3>, bias: Option<Tensor<1>>) -> Tensor<3> {
    let [n, tokens, both] = product.dims();
    let (product, bias) = (rows(cube(product)), bias.map(cube));
    let (width, client) = (both / 2, product.client.clone());
    let out = empty(&product, [n * tokens, width], product.dtype);
    let types = [elem(&product), bias.as_ref().map_or(elem(&product), elem)];
    let elements = n * tokens * width;
    let (count, dim) = units(&client, elements);
    geglu_kernel::launch(
        &client,
        count,
        dim,
        product.into_buffer_arg(),
        bias.map(CubeTensor::into_buffer_arg).into(),
        out.clone().into_buffer_arg(),
        width as u32,
        elements as u32,
        types,
    );
    tensor(reshaped(out, [n, tokens, width]))
}
