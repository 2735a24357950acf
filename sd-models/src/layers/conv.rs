use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use sd_core::WeightBytes;
use sd_kernels::{ConvShape, Isa, PackedConv, Packing};

use super::cpu::Packed;
use super::pack::bytes_of;
use super::{Epilogue, PackLayer, dispatch, pack_itself, parameter};
use crate::Result;
use crate::weights::Weights;

/// Zeros around a picture before a convolution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Padding {
    /// The same number of zeros on all sides.
    Even(usize),
    /// One row of zeros below and one column at the right: the VAE encoder's downsampling.
    BottomRight,
}

impl Padding {
    /// Zeros before and behind the picture, in both directions.
    pub(super) fn zeros(self) -> [usize; 2] {
        match self {
            Self::Even(padding) => [padding; 2],
            Self::BottomRight => [0, 1],
        }
    }
}

/// A change of a picture's height and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    Halved,
    Same,
    Doubled,
}

/// A 2-d convolution as `torch.nn.Conv2d`, `[n, in, h, w]` to `[n, out, h', w']`.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    pub(super) kernel: usize,
    #[module(skip)]
    pub(super) stride: usize,
    #[module(skip)]
    pub(super) padding: Padding,
    /// A layer that sees the picture twice as high and wide, every pixel repeated.
    #[module(skip)]
    pub(super) doubles: bool,
    #[module(skip)]
    pub(super) packed: Option<Packed<PackedConv>>,
}

impl Conv2d {
    /// `kernel` × `kernel` with stride 1 that keeps height and width; `kernel` is odd.
    pub fn same(inputs: usize, outputs: usize, kernel: usize, device: &Device) -> Self {
        let padding = Padding::Even(kernel / 2);
        Self::new([inputs, outputs], kernel, 1, padding, device)
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
            doubles: false,
            packed: None,
        }
    }

    /// The same layer without a bias.
    pub(crate) fn without_bias(self) -> Self {
        Self { bias: None, ..self }
    }

    /// The same layer, seeing the picture twice as high and wide, every pixel repeated.
    pub(crate) fn doubling(self) -> Self {
        Self {
            doubles: true,
            ..self
        }
    }

    /// True where the kernels have the weight.
    pub(crate) fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    /// Height and width of the kernel.
    pub(crate) fn kernel(&self) -> usize {
        self.kernel
    }

    /// The sizes that the weight is packed for.
    fn shape(&self) -> ConvShape {
        let [outputs, inputs, kernel, _] = self.weight.lazy_shape().dims();
        let [pad_before, pad_after] = self.padding.zeros();
        ConvShape {
            inputs,
            outputs,
            kernel,
            stride: self.stride,
            pad_before,
            pad_after,
            upsample: false,
        }
    }

    /// Channels in and out.
    pub(crate) fn channels(&self) -> [usize; 2] {
        let [outputs, inputs, _, _] = self.weight.lazy_shape().dims();
        [inputs, outputs]
    }

    /// The output's height and width beside the input's.
    pub(crate) fn scale(&self) -> Scale {
        match (self.doubles, self.stride) {
            (true, _) => Scale::Doubled,
            (false, 1) => Scale::Same,
            (false, _) => Scale::Halved,
        }
    }

    /// `[n, in, h, w]` to `[n, out, h', w']`.
    pub fn forward(&self, x: Tensor<4>, epilogue: Epilogue<4>) -> Tensor<4> {
        dispatch::conv2d(self, x, self.doubles, epilogue)
    }
}

/// Strips of a picture.
impl Conv2d {
    /// Rows of the output for `height` rows of the input.
    pub(crate) fn output_height(&self, height: usize) -> usize {
        let [before, after] = self.padding.zeros();
        (height * self.repeats() + before + after - self.kernel) / self.stride + 1
    }

    /// The rows of an input of `height` rows that some rows of the output are made of.
    pub(crate) fn reach(&self, rows: Range<usize>, height: usize) -> Range<usize> {
        let ([before, _], scale) = (self.padding.zeros(), self.repeats());
        let first = (rows.start * self.stride).saturating_sub(before);
        let end = ((rows.end - 1) * self.stride + self.kernel).saturating_sub(before);
        first / scale..end.div_ceil(scale).min(height)
    }

    /// Some rows of the output: `x` `[1, in, h, w]` are the input's rows from `top` that they
    /// [reach](Self::reach).
    pub(crate) fn forward_rows(
        &self,
        x: Tensor<4>,
        top: usize,
        rows: Range<usize>,
        epilogue: Epilogue<4>,
    ) -> Tensor<4> {
        dispatch::conv2d_rows(self, x, top, rows, epilogue)
    }

    /// The row of a strip that the kernel's first one is at for the first of `rows`, negative where
    /// zeros are above the strip. `top` is the strip's first row in the input.
    pub(super) fn first_row(&self, top: usize, rows: &Range<usize>) -> isize {
        let [before, _] = self.padding.zeros();
        (rows.start * self.stride) as isize - before as isize - (top * self.repeats()) as isize
    }

    /// Rows that the kernel sees for one of the input.
    fn repeats(&self) -> usize {
        if self.doubles { 2 } else { 1 }
    }
}

pack_itself!(Conv2d);

impl PackLayer for Conv2d {
    fn pack(&mut self, name: &str, weights: &Weights, packing: Packing) -> Result<WeightBytes> {
        let rows = weights.rows(name)?;
        let weight = PackedConv::read(Isa::best(), &rows, self.shape(), packing)?;
        let bytes = weight.bytes();
        let packed = Packed::new(weight, self.bias.is_some(), name, weights)?;
        Ok(self.packed.insert(packed).bytes(bytes))
    }

    fn packed_bytes(&self, name: &str, weights: &Weights, packing: Packing) -> Result<WeightBytes> {
        let shape = self.shape();
        let bias = self.bias.as_ref().map_or(0, |_| shape.outputs);
        bytes_of(name, weights, bias, |rows| {
            PackedConv::bytes_of(Isa::best(), rows, shape, packing)
        })
    }
}
