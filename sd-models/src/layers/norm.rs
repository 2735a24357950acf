use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use sd_kernels::Activation;

use super::{Input, dispatch, parameter};

/// Normalises each vector of the last dimension, as `torch.nn.LayerNorm`.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    /// `[width]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    pub(super) epsilon: f64,
}

impl LayerNorm {
    /// A layer for vectors of `width`.
    pub fn new(width: usize, epsilon: f64, device: &Device) -> Self {
        Self {
            weight: parameter([width], device),
            bias: parameter([width], device),
            epsilon,
        }
    }

    /// `[…, width]` to the same shape.
    pub fn forward<'a, const D: usize>(&self, x: impl Into<Input<'a, D>>) -> Tensor<D> {
        dispatch::layer_norm(self, x.into())
    }
}

/// Normalises groups of channels over the whole picture, as `torch.nn.GroupNorm`.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// `[channels]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    pub(super) groups: usize,
    #[module(skip)]
    pub(super) epsilon: f64,
}

impl GroupNorm {
    /// A layer for `channels`, a multiple of `groups`.
    pub fn new(groups: usize, channels: usize, epsilon: f64, device: &Device) -> Self {
        Self {
            weight: parameter([channels], device),
            bias: parameter([channels], device),
            groups,
            epsilon,
        }
    }

    /// `[n, channels, h, w]` to the same shape, through `activation` in the same pass: a SiLU stands
    /// between nearly every normalisation and the convolution behind it.
    pub fn forward<'a>(&self, x: impl Into<Input<'a, 4>>, activation: Activation) -> Tensor<4> {
        dispatch::group_norm(self, x.into(), activation)
    }
}
