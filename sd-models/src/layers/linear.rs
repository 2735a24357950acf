use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::parameter;

/// `y = x·Wᵀ + b` over the last dimension, as `torch.nn.Linear`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// A layer of `inputs` to `outputs` features whose weights are still to be loaded.
    pub fn new(inputs: usize, outputs: usize, bias: bool, device: &Device) -> Self {
        Self {
            weight: parameter([outputs, inputs], device),
            bias: bias.then(|| parameter([outputs], device)),
        }
    }

    /// `[…, in]` to `[…, out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(Param::val);
        burn::tensor::module::linear(x, self.weight.val().transpose(), bias)
    }
}
