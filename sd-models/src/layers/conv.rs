use std::ops::Range;
use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};

use sd_core::WeightBytes;
use sd_kernels::{ConvShape, Isa, PackedConv, Packing};

use super::cpu::Packed;
use super::pack::{bytes_of, size};
use super::sides::Product;
use super::{
    Addition, AnySide, Epilogue, Input, PackLayer, Side, Sides, dispatch, pack_itself, parameter,
};
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
    #[module(skip)]
    beside: Sides<Self>,
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
            beside: Sides::default(),
        }
    }

    /// The same layer with the weight `[out, in, kernel, kernel]` and no bias.
    fn with_weight(self, weight: Vec<f32>, device: &Device, dtype: DType) -> Result<Self> {
        let mut layer = self.without_bias();
        if dispatch::has_kernels(device, dtype) {
            let weight = PackedConv::new(Isa::best(), &weight, layer.shape())?;
            layer.packed = Some(Packed::bare(weight));
        } else {
            let shape: [usize; 4] = layer.weight.lazy_shape().dims();
            let dtype = dispatch::stored_dtype(shape.len(), device, dtype);
            let weight = Tensor::from_data(TensorData::new(weight, shape), (device, dtype));
            layer.weight = Param::from_tensor(dispatch::stored(weight));
        }
        Ok(layer)
    }

    /// The bytes of its own weight and bias, loaded.
    pub(super) fn bytes(&self) -> WeightBytes {
        match &self.packed {
            Some(packed) => packed.bytes(packed.weight.bytes()),
            None => size(&self.weight, self.bias.as_ref()),
        }
    }

    /// A layer that sees a picture as this one does, of as many outputs.
    fn like(&self, outputs: usize, device: &Device) -> Self {
        let [inputs, _] = self.channels();
        Self {
            doubles: self.doubles,
            ..Self::new(
                [inputs, outputs],
                self.kernel,
                self.stride,
                self.padding,
                device,
            )
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

    /// True where nothing lies beside it.
    pub(super) fn is_bare(&self) -> bool {
        self.beside.is_empty()
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
        self.forward_as(self.doubles, x, epilogue)
    }

    /// [`forward`](Self::forward) of a picture that is seen twice as high and wide, or as it is.
    pub(crate) fn forward_as(
        &self,
        doubled: bool,
        x: Tensor<4>,
        epilogue: Epilogue<4>,
    ) -> Tensor<4> {
        if self.beside.is_empty() {
            return dispatch::conv2d(self, x.into(), doubled, epilogue);
        }
        let product =
            |layer: &Self, x: Input<'_, 4>, epilogue| dispatch::conv2d(layer, x, doubled, epilogue);
        let own = |x: Input<'_, 4>, epilogue| product(self, x, epilogue);
        self.beside.around(x.into(), epilogue, product, own)
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
        if self.beside.is_empty() {
            return dispatch::conv2d_rows(self, x.into(), top, rows, epilogue);
        }
        let product = |layer: &Self, x: Input<'_, 4>, epilogue| {
            dispatch::conv2d_rows(layer, x, top, rows.clone(), epilogue)
        };
        let own = |x: Input<'_, 4>, epilogue| product(self, x, epilogue);
        self.beside.around(x.into(), epilogue, product, own)
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

impl Product<4> for Conv2d {
    fn product(&self, x: Input<'_, 4>, epilogue: Epilogue<4>) -> Tensor<4> {
        dispatch::conv2d(self, x, self.doubles, epilogue)
    }

    fn shift(bias: Tensor<1>) -> Tensor<4> {
        let [channels] = bias.dims();
        bias.reshape([1, channels, 1, 1])
    }

    fn scaled(x: Tensor<4>, factor: f32) -> Tensor<4> {
        // In the order in which the kernels lay pictures out.
        (x.permute([0, 2, 3, 1]) * factor).permute([0, 3, 1, 2])
    }
}

pack_itself!(Conv2d);

impl PackLayer for Conv2d {
    fn pack(&mut self, name: &str, weights: &Weights, packing: Packing) -> Result<WeightBytes> {
        let rows = weights.rows(name)?;
        let weight = PackedConv::read(Isa::best(), &rows, self.shape(), packing)?;
        let packed = Packed::new(weight, self.bias.is_some(), name, weights)?;
        self.packed = Some(packed);
        Ok(self.bytes())
    }

    fn packed_bytes(&self, name: &str, weights: &Weights, packing: Packing) -> Result<WeightBytes> {
        let shape = self.shape();
        let bias = self.bias.as_ref().map_or(0, |_| shape.outputs);
        bytes_of(name, weights, bias, |rows| {
            PackedConv::bytes_of(Isa::best(), rows, shape, packing)
        })
    }

    fn side(&self, addition: Addition, device: &Device, dtype: DType) -> Option<Result<AnySide>> {
        let [_, outputs] = self.channels();
        let low = |rank, weight| self.like(rank, device).with_weight(weight, device, dtype);
        let high = |rank, weight| match rank {
            Some(rank) => Self::same(rank, outputs, 1, device).with_weight(weight, device, dtype),
            None => (self.like(outputs, device)).with_weight(weight, device, dtype),
        };
        let side = Side::new(addition, device, dtype, low, high);
        Some(side.map(|side| AnySide::Conv2d(Arc::new(side))))
    }

    fn accepts(&self, side: &AnySide) -> bool {
        let AnySide::Conv2d(side) = side else {
            return false;
        };
        let way = |layer: &Self| (layer.kernel, layer.stride, layer.padding, layer.doubles);
        let channels = Self::channels;
        side.fits(
            self.channels(),
            |layer| channels(layer)[0],
            |layer| channels(layer)[1],
        ) && side.first().is_none_or(|first| way(first) == way(self))
    }

    fn put_beside(&mut self, side: &AnySide, factor: f32) {
        if let AnySide::Conv2d(side) = side {
            self.beside.push(side.clone(), factor);
        }
    }
}
