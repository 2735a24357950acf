use burn::module::{Module, Param};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};

use super::parameter;

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
    stride: usize,
    #[module(skip)]
    padding: Padding,
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
            stride,
            padding,
        }
    }

    /// `[n, in, h, w]` to `[n, out, h', w']`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (x, padding) = match self.padding {
            Padding::Even(padding) => (x, padding),
            Padding::BottomRight => (x.pad((0, 1, 0, 1), 0.0f32), 0),
        };
        let options = ConvOptions::new([self.stride; 2], [padding; 2], [1, 1], 1);
        let bias = self.bias.as_ref().map(Param::val);
        burn::tensor::module::conv2d(x, self.weight.val(), bias, options)
    }
}
