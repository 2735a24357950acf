use burn::module::{Module, Param};
use burn::tensor::activation::{gelu, sigmoid};
use burn::tensor::{Device, Tensor};

use sd_core::WeightBytes;
use sd_kernels::{Activation, Isa, Memory, PackedMatrix};

use super::cpu::Packed;
use super::{PackLayer, pack_itself, parameter};
use crate::Result;
use crate::weights::Weights;

/// `y = x·Wᵀ + b` over the last dimension, as `torch.nn.Linear`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    packed: Option<Packed<PackedMatrix>>,
}

impl Linear {
    /// A layer of `inputs` to `outputs` features whose weights are still to be loaded.
    pub fn new(inputs: usize, outputs: usize, bias: bool, device: &Device) -> Self {
        Self {
            weight: parameter([outputs, inputs], device),
            bias: bias.then(|| parameter([outputs], device)),
            packed: None,
        }
    }

    /// `[…, in]` to `[…, out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match &self.packed {
            Some(packed) => packed.forward(x, Activation::None, None),
            None => {
                let bias = self.bias.as_ref().map(Param::val);
                burn::tensor::module::linear(x, self.weight.val().transpose(), bias)
            }
        }
    }

    /// [`forward`](Self::forward) and `x` itself. On the CPU a clone of `x` would be a copy.
    pub fn forward_keeping<const D: usize>(&self, x: Tensor<D>) -> (Tensor<D>, Tensor<D>) {
        match &self.packed {
            Some(packed) => packed.forward_keeping(x),
            None => (self.forward(x.clone()), x),
        }
    }

    /// [`forward`](Self::forward), added to `residual`.
    pub fn forward_onto<const D: usize>(&self, x: Tensor<D>, residual: Tensor<D>) -> Tensor<D> {
        match &self.packed {
            Some(packed) => packed.forward(x, Activation::None, Some(residual)),
            None => residual + self.forward(x),
        }
    }

    /// [`forward`](Self::forward), then a GELU: the exact one, or CLIP's approximation of it.
    pub(crate) fn forward_gelu<const D: usize>(&self, x: Tensor<D>, quick: bool) -> Tensor<D> {
        match (&self.packed, quick) {
            (Some(packed), false) => packed.forward(x, Activation::Gelu, None),
            (Some(packed), true) => packed.forward(x, Activation::QuickGelu, None),
            (None, false) => gelu(self.forward(x)),
            (None, true) => {
                let x = self.forward(x);
                x.clone() * sigmoid(x * 1.702)
            }
        }
    }
}

pack_itself!(Linear);

impl PackLayer for Linear {
    fn pack(&mut self, name: &str, weights: &Weights, memory: Memory) -> Result<WeightBytes> {
        let [outputs, inputs] = self.weight.lazy_shape().dims();
        let rows = weights.rows(name)?;
        let weight = PackedMatrix::read(Isa::best(), &rows, outputs, inputs, memory)?;
        let bytes = weight.bytes();
        let packed = Packed::new(weight, self.bias.is_some(), name, weights)?;
        Ok(self.packed.insert(packed).bytes(bytes))
    }
}
