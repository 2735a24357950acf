use std::ops::Range;

use burn::module::Param;
use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{DType, Tensor};

use super::{finish, from_f32, to_f32};
use crate::layers::{Conv2d, Epilogue, Padding};

pub(in crate::layers) fn conv2d(
    layer: &Conv2d,
    x: Tensor<4>,
    doubled: bool,
    epilogue: Epilogue<4>,
) -> Tensor<4> {
    let dtype = x.dtype();
    let (x, padding) = padded(layer, x, doubled);
    convolved(layer, x, padding, dtype, epilogue)
}

/// Some rows of the output from the strip `x`, whose first row is the input's row `top`.
pub(in crate::layers) fn conv2d_rows(
    layer: &Conv2d,
    x: Tensor<4>,
    top: usize,
    rows: Range<usize>,
    epilogue: Epilogue<4>,
) -> Tensor<4> {
    let dtype = x.dtype();
    let (x, padding) = padded_strip(layer, x, top, rows);
    convolved(layer, x, padding, dtype, epilogue)
}

fn convolved(
    layer: &Conv2d,
    x: Tensor<4>,
    padding: [usize; 2],
    dtype: DType,
    epilogue: Epilogue<4>,
) -> Tensor<4> {
    let bias = layer.bias.as_ref().map(Param::val);
    let y = product(layer, x, padding, bias);
    finish(from_f32(y, dtype), epilogue)
}

/// A picture as the layer's product sees it, and the zeros that are still to be put around it.
pub(in crate::layers) fn padded(
    layer: &Conv2d,
    x: Tensor<4>,
    doubled: bool,
) -> (Tensor<4>, [usize; 2]) {
    let x = if doubled { double(x) } else { x };
    match layer.padding {
        Padding::Even(padding) => (x, [padding; 2]),
        Padding::BottomRight => (x.pad((0, 1, 0, 1), 0.0f32), [0; 2]),
    }
}

/// As [`padded`], the strip `x`, whose first row is the input's row `top`, for some rows of the output.
pub(in crate::layers) fn padded_strip(
    layer: &Conv2d,
    x: Tensor<4>,
    top: usize,
    rows: Range<usize>,
) -> (Tensor<4>, [usize; 2]) {
    let first = layer.first_row(top, &rows);
    let x = if layer.doubles { double(x) } else { x };
    let (above, cut) = ((-first).max(0) as usize, first.max(0) as usize);
    let needed = (rows.len() - 1) * layer.stride + layer.kernel;
    let there = x.dims()[2] - cut;
    let x = match cut > 0 || there > needed - above {
        true => x.narrow(2, cut, there.min(needed - above)),
        false => x,
    };
    let below = needed - above - x.dims()[2];
    // Zeros of an uneven width are part of the picture, those of an even one the backend's.
    let [before, after] = layer.padding.zeros();
    let (sides, padding) = if before == after {
        (0, before)
    } else {
        (after, 0)
    };
    let x = match above + below + sides {
        0 => x,
        _ => x.pad((0, sides, above, below), 0.0f32),
    };
    (x, [0, padding])
}

/// In f32 whatever the precision of `x`: Burn's direct convolution on GPUs, which it takes where
/// nothing faster runs, adds up thousands of products in the precision of `x`.
pub(in crate::layers) fn product(
    layer: &Conv2d,
    x: Tensor<4>,
    padding: [usize; 2],
    bias: Option<Tensor<1>>,
) -> Tensor<4> {
    let (x, weight, bias) = (to_f32(x), to_f32(layer.weight.val()), bias.map(to_f32));
    let options = ConvOptions::new([layer.stride; 2], padding, [1, 1], 1);
    burn::tensor::module::conv2d(x, weight, bias, options)
}

fn double(x: Tensor<4>) -> Tensor<4> {
    let [_, _, h, w] = x.dims();
    resize_nearest(x, [2 * h, 2 * w])
}

/// A picture at the height and width `size`, each pixel the nearest of `x` (torch's `nearest`).
pub(in crate::layers) fn resize_nearest(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let nearest = InterpolateOptions::new(InterpolateMode::Nearest).with_output_size(size);
    burn::tensor::module::interpolate(x, nearest)
}
