use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use sd_core::WeightBytes;
use sd_kernels::{Isa, PackedMatrix, Packing, Products};

use super::cpu::Packed;
use super::pack::bytes_of;
use super::{Epilogue, Input, PackLayer, dispatch, pack_itself, parameter};
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
    pub(super) packed: Option<Packed<PackedMatrix>>,
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

    /// What its weight is multiplied with.
    pub(crate) fn products(&self) -> Products {
        let packed = self.packed.as_ref();
        packed.map_or(Products::F32, Packed::<PackedMatrix>::products)
    }

    /// `[…, in]` to `[…, out]`.
    pub fn forward<'a, const D: usize>(
        &self,
        x: impl Into<Input<'a, D>>,
        epilogue: Epilogue<D>,
    ) -> Tensor<D> {
        dispatch::linear(self, x.into(), epilogue)
    }
}

pack_itself!(Linear);

impl PackLayer for Linear {
    fn pack(&mut self, name: &str, weights: &Weights, packing: Packing) -> Result<WeightBytes> {
        let [outputs, inputs] = self.weight.lazy_shape().dims();
        let rows = weights.rows(name)?;
        let weight = PackedMatrix::read(Isa::best(), &rows, outputs, inputs, packing)?;
        let bytes = weight.bytes();
        let packed = Packed::new(weight, self.bias.is_some(), name, weights)?;
        Ok(self.packed.insert(packed).bytes(bytes))
    }

    fn packed_bytes(&self, name: &str, weights: &Weights, packing: Packing) -> Result<WeightBytes> {
        let [outputs, inputs] = self.weight.lazy_shape().dims();
        let bias = self.bias.as_ref().map_or(0, |_| outputs);
        bytes_of(name, weights, bias, |rows| {
            PackedMatrix::bytes_of(Isa::best(), rows, outputs, inputs, packing)
        })
    }
}
