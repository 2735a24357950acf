use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;

use crate::tensor::{cube, empty, in_precision, reshaped, rows, tensor};

/// `x·y` over the last two dimensions in precision `dtype`, which may be another than theirs; added
/// up in f32. With `transposed` it is `x·yᵀ`.
pub fn product<const D: usize>(
    x: Tensor<D>,
    y: Tensor<D>,
    transposed: bool,
    dtype: DType,
) -> Tensor<D> {
    let y = in_precision(y, x.dtype());
    let (x, mut y) = (cube(x), cube(y));
    if transposed {
        y.meta.swap(D - 2, D - 1);
    }
    tensor(multiplied(x, y, None, dtype))
}

/// `x·y`, in `out` where there is one.
pub(crate) fn multiplied(
    x: CubeTensor,
    y: CubeTensor,
    out: Option<CubeTensor>,
    dtype: DType,
) -> CubeTensor {
    let made = matmul(x, y, out, MatmulStrategy::default(), dtype);
    made.unwrap_or_else(|error| panic!("a product that cannot be launched: {error:?}"))
}

/// The products of tokens `[n, tokens, inputs]` and each of the `PARTS` weights that lie one behind
/// the other in `[PARTS · outputs, inputs]`, in one launch; each product has its own memory.
pub fn products<const PARTS: usize>(x: Tensor<3>, weight: Tensor<2>) -> [Tensor<3>; PARTS] {
    let ([n, tokens, inputs], [all, _]) = (x.dims(), weight.dims());
    let (outputs, dtype) = (all / PARTS, x.dtype());
    let x = reshaped(rows(cube(x)), [1, n * tokens, inputs]);
    let weight = rows(cube(in_precision(weight, dtype)));
    let mut weight = reshaped(weight, [PARTS, outputs, inputs]);
    weight.meta.swap(1, 2);
    let slab = slab(&x.client, n * tokens * outputs, dtype.size());
    let whole = empty(&x, [PARTS * slab], dtype);
    let mut out = reshaped(whole.clone(), [PARTS, slab]);
    out.meta.remove(1);
    out.meta.push(n * tokens, outputs);
    out.meta.push(outputs, 1);
    multiplied(x, weight, Some(out), dtype);
    let shape = [n, tokens, outputs];
    let padding = slab - n * tokens * outputs;
    std::array::from_fn(|i| {
        let behind = (PARTS - 1 - i) * slab + padding;
        tensor(part_of(&whole, i * slab, behind, shape))
    })
}

/// Numbers of `size` bytes that a part of so many takes in a buffer: where in a buffer a tensor may
/// begin is the device's affair.
pub(crate) fn slab(client: &Client, elements: usize, size: usize) -> usize {
    let alignment = client.properties().memory.alignment as usize;
    (elements * size).next_multiple_of(alignment.max(size)) / size
}

/// The part of a buffer between so many numbers before and behind it.
pub(crate) fn part_of(
    whole: &CubeTensor,
    before: usize,
    behind: usize,
    shape: impl Into<Shape>,
) -> CubeTensor {
    let (mut part, size) = (whole.clone(), whole.dtype.size());
    let handle = part.handle.offset_start((before * size) as u64);
    part.handle = handle.offset_end((behind * size) as u64);
    reshaped(part, shape)
}
