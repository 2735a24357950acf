use burn::module::{Module, Param};
use burn::tensor::activation::silu;
use burn::tensor::{DType, Device, Tensor, TensorData};

use sd_kernels::{Activation, Moments};

use super::cpu::{self, Norm, runs_kernels};
use super::parameter;
use super::precision::{from_f32, to_f32};

/// Normalises each vector of the last dimension, as `torch.nn.LayerNorm`.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    /// `[width]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    epsilon: f64,
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

    /// `[…, width]` to the same shape. In f32 whatever the precision of `x`: the square of a
    /// number above 256 overflows in f16.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        if runs_kernels(&x) {
            return self.forward_keeping(x).0;
        }
        let dtype = x.dtype();
        let (weight, bias) = (to_f32(self.weight.val()), to_f32(self.bias.val()));
        let x = burn::tensor::module::layer_norm(to_f32(x), weight, Some(bias), self.epsilon);
        from_f32(x, dtype)
    }
}

impl LayerNorm {
    /// [`forward`](Self::forward) and `x` itself. On the CPU a clone of `x` would be a copy.
    pub fn forward_keeping<const D: usize>(&self, x: Tensor<D>) -> (Tensor<D>, Tensor<D>) {
        if runs_kernels(&x) {
            return cpu::layer_norm(x, self.weight.val(), self.bias.val(), self.epsilon);
        }
        (self.forward(x.clone()), x)
    }
}

/// Of the last two dimensions of `x`, which become 1.
///
/// One dimension after the other: some backends add a row from its beginning to its end, and a sum
/// of a picture's million squares in f32 would be wrong in the fourth digit.
pub(super) fn variance_and_mean(x: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let mean = x.clone().mean_dim(3).mean_dim(2);
    let centred = x - mean.clone();
    let variance = (centred.clone() * centred).mean_dim(3).mean_dim(2);
    (variance, mean)
}

/// Normalises groups of channels over the whole picture, as `torch.nn.GroupNorm`.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// `[channels]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    groups: usize,
    #[module(skip)]
    epsilon: f64,
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

    /// `[n, channels, h, w]` to the same shape. The statistics are taken in f32 whatever the
    /// precision of `x`: a sum of squares over a whole picture overflows in f16.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if runs_kernels(&x) {
            return self.compute(x, Activation::None);
        }
        let ([n, c, h, w], dtype) = (x.dims(), x.dtype());
        let x = to_f32(x).reshape([n, self.groups, c / self.groups * h, w]);
        let (variance, mean) = variance_and_mean(x.clone());
        let x = (x - mean) / (variance + self.epsilon).sqrt();
        let per_channel = |p: &Param<Tensor<1>>| to_f32(p.val()).reshape([1, c, 1, 1]);
        let x = x.reshape([n, c, h, w]) * per_channel(&self.weight) + per_channel(&self.bias);
        from_f32(x, dtype)
    }

    /// [`forward`](Self::forward) and `x` itself. On the CPU a clone of `x` would be a copy.
    pub fn forward_keeping(&self, x: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        if runs_kernels(&x) {
            return self.compute_keeping(x, Activation::None);
        }
        (self.forward(x.clone()), x)
    }

    /// [`forward_silu`](Self::forward_silu) and `x` itself, as
    /// [`forward_keeping`](Self::forward_keeping).
    pub fn forward_silu_keeping(&self, x: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        if runs_kernels(&x) {
            return self.compute_keeping(x, Activation::Silu);
        }
        (self.forward_silu(x.clone()), x)
    }

    /// [`forward`](Self::forward), then SiLU: the pair stands before nearly every convolution.
    pub fn forward_silu(&self, x: Tensor<4>) -> Tensor<4> {
        if runs_kernels(&x) {
            return self.compute(x, Activation::Silu);
        }
        silu(self.forward(x))
    }

    /// [`forward`](Self::forward) of some rows of a picture whose `moments` are known.
    pub(crate) fn forward_with(&self, x: Tensor<4>, moments: &Moments) -> Tensor<4> {
        let ([_, c, _, _], dtype, device) = (x.dims(), x.dtype(), x.device());
        let (mut means, mut factors) = (Vec::with_capacity(c), Vec::with_capacity(c));
        for (mean, variance) in moments.groups(self.groups) {
            let factor = 1.0 / (variance + self.epsilon).sqrt();
            means.extend(std::iter::repeat_n(mean as f32, c / self.groups));
            factors.extend(std::iter::repeat_n(factor as f32, c / self.groups));
        }
        let upload = |x: Vec<f32>| {
            let data = TensorData::new(x, [1, c, 1, 1]);
            Tensor::<4>::from_data(data, (&device, DType::F32))
        };
        let per_channel = |p: &Param<Tensor<1>>| to_f32(p.val()).reshape([1, c, 1, 1]);
        let x = (to_f32(x) - upload(means)) * (upload(factors) * per_channel(&self.weight));
        from_f32(x + per_channel(&self.bias), dtype)
    }

    fn compute_keeping(&self, x: Tensor<4>, activation: Activation) -> (Tensor<4>, Tensor<4>) {
        cpu::group_norm_keeping(x, self.before(activation))
    }

    fn compute(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        cpu::group_norm(x, self.before(activation))
    }

    /// As the kernels want it, with what comes behind it.
    pub(super) fn before(&self, activation: Activation) -> Norm {
        Norm {
            weight: self.weight.val(),
            bias: self.bias.val(),
            groups: self.groups,
            epsilon: self.epsilon,
            activation,
        }
    }
}
