use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor};

use sd_core::WeightBytes;
use sd_kernels::{ConvShape, Isa, Memory, OutputRows, PackedConv};

use super::cpu::Packed;
use super::precision::{from_f32, to_f32};
use super::{PackLayer, pack_itself, parameter};
use crate::Result;
use crate::weights::Weights;

/// What surrounds the picture before a convolution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Padding {
    /// The same number of zeros on all sides.
    Even(usize),
    /// One row of zeros below and one column at the right: the VAE encoder's downsampling.
    BottomRight,
}

/// A 2-d convolution as `torch.nn.Conv2d`, `[n, in, h, w]` to `[n, out, h', w']`.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    kernel: usize,
    #[module(skip)]
    stride: usize,
    #[module(skip)]
    padding: Padding,
    #[module(skip)]
    packed: Option<Packed<PackedConv>>,
}

impl Conv2d {
    /// `kernel` × `kernel` with stride 1 that keeps height and width; `kernel` is odd.
    pub fn same(inputs: usize, outputs: usize, kernel: usize, device: &Device) -> Self {
        Self::new(
            [inputs, outputs],
            kernel,
            1,
            Padding::Even(kernel / 2),
            device,
        )
    }

    /// Any square kernel, stride and padding; `channels` is `[in, out]`.
    pub fn new(
        channels: [usize; 2],
        kernel: usize,
        stride: usize,
        padding: Padding,
        device: &Device,
    ) -> Self {
        let [inputs, outputs] = channels;
        Self {
            weight: parameter([outputs, inputs, kernel, kernel], device),
            bias: Some(parameter([outputs], device)),
            kernel,
            stride,
            padding,
            packed: None,
        }
    }

    /// Whether the kernels have the weight.
    pub(crate) fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    /// `[n, in, h, w]` to `[n, out, h', w']`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if let Some(packed) = &self.packed {
            return packed.forward(x, false, None, None);
        }
        let (x, padding) = match self.padding {
            Padding::Even(padding) => (x, padding),
            Padding::BottomRight => (x.pad((0, 1, 0, 1), 0.0f32), 0),
        };
        let options = ConvOptions::new([self.stride; 2], [padding; 2], [1, 1], 1);
        let bias = self.bias.as_ref().map(Param::val);
        conv2d(x, self.weight.val(), bias, options)
    }

    /// [`forward`](Self::forward), added to `residual`.
    pub fn forward_onto(&self, x: Tensor<4>, residual: Tensor<4>) -> Tensor<4> {
        match &self.packed {
            Some(packed) => packed.forward(x, false, None, Some(residual)),
            None => residual + self.forward(x),
        }
    }

    /// [`forward`](Self::forward) with `shift` `[1 or n, out]` added to every pixel.
    pub fn forward_shifted(&self, x: Tensor<4>, shift: Tensor<2>) -> Tensor<4> {
        match &self.packed {
            Some(packed) => packed.forward(x, false, Some(shift), None),
            None => {
                let [n, c] = shift.dims();
                self.forward(x) + shift.reshape([n, c, 1, 1])
            }
        }
    }

    /// [`forward`](Self::forward) of the picture twice as high and wide, every pixel repeated.
    pub fn forward_doubled(&self, x: Tensor<4>) -> Tensor<4> {
        match &self.packed {
            Some(packed) => packed.forward(x, true, None, None),
            None => {
                let [_, _, h, w] = x.dims();
                self.forward(resize_nearest(x, [2 * h, 2 * w]))
            }
        }
    }
}

/// Strips of a picture.
impl Conv2d {
    /// Rows of the output for `height` rows of the input, `doubled` or not.
    pub(crate) fn output_height(&self, height: usize, doubled: bool) -> usize {
        let (kernel, [before, after]) = (self.kernel, self.zeros());
        let height = if doubled { 2 * height } else { height };
        (height + before + after - kernel) / self.stride + 1
    }

    /// The rows of an input of `height` rows that some rows of the output are made of.
    pub(crate) fn reach(&self, rows: Range<usize>, height: usize, doubled: bool) -> Range<usize> {
        let (kernel, [before, _]) = (self.kernel, self.zeros());
        let scale = if doubled { 2 } else { 1 };
        let first = (rows.start * self.stride).saturating_sub(before);
        let end = ((rows.end - 1) * self.stride + kernel).saturating_sub(before);
        first / scale..end.div_ceil(scale).min(height)
    }

    /// Some rows of the output, plus `residual`: `x` `[1, in, h, w]` are the input's rows from
    /// `top` that they [reach](Self::reach).
    pub(crate) fn forward_rows(
        &self,
        x: Tensor<4>,
        top: usize,
        rows: Range<usize>,
        doubled: bool,
        residual: Option<Tensor<4>>,
    ) -> Tensor<4> {
        let (kernel, [before, after]) = (self.kernel, self.zeros());
        let top = if doubled { 2 * top } else { top };
        let first = (rows.start * self.stride) as isize - before as isize - top as isize;
        if let Some(packed) = &self.packed {
            let count = rows.len();
            return packed.forward_rows(x, doubled, OutputRows { first, count }, residual);
        }
        let x = match doubled {
            true => {
                let [_, _, h, w] = x.dims();
                resize_nearest(x, [2 * h, 2 * w])
            }
            false => x,
        };
        let (above, cut) = ((-first).max(0) as usize, first.max(0) as usize);
        let needed = (rows.len() - 1) * self.stride + kernel;
        let there = x.dims()[2] - cut;
        let x = match cut > 0 || there > needed - above {
            true => x.narrow(2, cut, there.min(needed - above)),
            false => x,
        };
        let below = needed - above - x.dims()[2];
        // Zeros of an uneven width are part of the picture, those of an even one the backend's.
        let (sides, padding) = if before == after {
            (0, before)
        } else {
            (after, 0)
        };
        let x = match above + below + sides {
            0 => x,
            _ => x.pad((0, sides, above, below), 0.0f32),
        };
        let options = ConvOptions::new([self.stride; 2], [0, padding], [1, 1], 1);
        let bias = self.bias.as_ref().map(Param::val);
        let x = conv2d(x, self.weight.val(), bias, options);
        match residual {
            Some(residual) => residual + x,
            None => x,
        }
    }

    /// Zeros before and behind the input, in both directions.
    fn zeros(&self) -> [usize; 2] {
        match self.padding {
            Padding::Even(padding) => [padding; 2],
            Padding::BottomRight => [0, 1],
        }
    }
}

pack_itself!(Conv2d);

impl PackLayer for Conv2d {
    fn pack(&mut self, name: &str, weights: &Weights, memory: Memory) -> Result<WeightBytes> {
        let [outputs, inputs, kernel, _] = self.weight.lazy_shape().dims();
        let [pad_before, pad_after] = self.zeros();
        let shape = ConvShape {
            inputs,
            outputs,
            kernel,
            stride: self.stride,
            pad_before,
            pad_after,
            upsample: false,
        };
        let rows = weights.rows(name)?;
        let weight = PackedConv::read(Isa::best(), &rows, shape, memory)?;
        let bytes = weight.bytes();
        let packed = Packed::new(weight, self.bias.is_some(), name, weights)?;
        Ok(self.packed.insert(packed).bytes(bytes))
    }
}

/// In f32 whatever the precision of `x`: Burn's direct convolution on GPUs, which it takes where
/// nothing faster runs, adds up thousands of products in the precision of `x`.
fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    options: ConvOptions<2>,
) -> Tensor<4> {
    let dtype = x.dtype();
    let (x, weight, bias) = (to_f32(x), to_f32(weight), bias.map(to_f32));
    from_f32(
        burn::tensor::module::conv2d(x, weight, bias, options),
        dtype,
    )
}

/// A picture at the height and width `size`, each pixel the nearest of `x` (torch's `nearest`).
pub(super) fn resize_nearest(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let nearest = InterpolateOptions::new(InterpolateMode::Nearest).with_output_size(size);
    burn::tensor::module::interpolate(x, nearest)
}
