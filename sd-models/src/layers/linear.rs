use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};

use sd_core::WeightBytes;
use sd_kernels::{Isa, PackedMatrix, Packing};

use super::cpu::Packed;
use super::pack::{bytes_of, size};
use super::sides::Product;
use super::{
    Addition, AnySide, Epilogue, Input, PackLayer, Side, Sides, Stream, dispatch, pack_itself,
    parameter,
};
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
    #[module(skip)]
    beside: Sides<Self>,
}

impl Linear {
    /// A layer of `inputs` to `outputs` features whose weights are still to be loaded.
    pub fn new(inputs: usize, outputs: usize, bias: bool, device: &Device) -> Self {
        Self {
            weight: parameter([outputs, inputs], device),
            bias: bias.then(|| parameter([outputs], device)),
            packed: None,
            beside: Sides::default(),
        }
    }

    /// A layer of this weight.
    #[cfg(feature = "cubecl")]
    pub(super) fn with(weight: Tensor<2>) -> Self {
        Self {
            weight: Param::from_tensor(weight),
            bias: None,
            packed: None,
            beside: Sides::default(),
        }
    }

    /// A layer of a weight `[outputs, inputs]` without a bias.
    fn of(
        weight: Vec<f32>,
        [outputs, inputs]: [usize; 2],
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let mut layer = Self::new(inputs, outputs, false, device);
        if dispatch::has_kernels(device, dtype) {
            let weight = PackedMatrix::new(Isa::best(), &weight, outputs, inputs)?;
            layer.packed = Some(Packed::bare(weight));
        } else {
            let data = TensorData::new(weight, [outputs, inputs]);
            layer.weight = Param::from_tensor(Tensor::from_data(data, (device, dtype)));
        }
        Ok(layer)
    }

    /// `[…, in]` to `[…, out]`.
    pub fn forward<'a, const D: usize>(
        &self,
        x: impl Into<Input<'a, D>>,
        epilogue: Epilogue<D>,
    ) -> Tensor<D> {
        if self.beside.is_empty() {
            return dispatch::linear(self, x.into(), epilogue);
        }
        let own = |x: Input<'_, D>, epilogue| dispatch::linear(self, x, epilogue);
        (self.beside).around(x.into(), epilogue, Self::product, own)
    }

    /// `[n, tokens, in]` to `[n, tokens, out]`, added to `residual` where there is one, for a
    /// normalisation to finish.
    pub(crate) fn stream(&self, x: Tensor<3>, residual: Option<Tensor<3>>) -> Stream {
        let epilogue = Epilogue {
            residual,
            ..Epilogue::NONE
        };
        match self.is_bare() {
            true => dispatch::stream(self, x, epilogue),
            false => self.forward(x, epilogue).into(),
        }
    }

    /// The bytes of its own weight and bias, loaded.
    pub(super) fn bytes(&self) -> WeightBytes {
        match &self.packed {
            Some(packed) => packed.bytes(packed.weight.bytes()),
            None => size(&self.weight, self.bias.as_ref()),
        }
    }

    /// True where nothing lies beside the layer.
    pub(super) fn is_bare(&self) -> bool {
        self.beside.is_empty()
    }

    /// The sum of what lies beside the product of `x`, where anything does.
    pub(super) fn beside(&self, x: &mut Tensor<3>) -> Option<Tensor<3>> {
        if self.beside.is_empty() {
            return None;
        }
        let mut input = Input::Lent(x);
        let sum = self.beside.sum(&mut input, None, Self::product);
        match (sum, self.beside.shift(None)) {
            (Some(sum), Some(shift)) => Some(sum + shift),
            (None, Some(shift)) => {
                let [n, tokens, _] = input.get().dims();
                let width = shift.dims()[2];
                Some(shift.expand([n, tokens, width]))
            }
            (sum, None) => sum,
        }
    }
}

impl<const D: usize> Product<D> for Linear {
    fn product(&self, x: Input<'_, D>, epilogue: Epilogue<D>) -> Tensor<D> {
        dispatch::linear(self, x, epilogue)
    }

    fn shift(bias: Tensor<1>) -> Tensor<D> {
        bias.unsqueeze()
    }

    fn scaled(x: Tensor<D>, factor: f32) -> Tensor<D> {
        x * factor
    }
}

pack_itself!(Linear);

impl PackLayer for Linear {
    fn pack(&mut self, name: &str, weights: &Weights, packing: Packing) -> Result<WeightBytes> {
        let [outputs, inputs] = self.weight.lazy_shape().dims();
        let rows = weights.rows(name)?;
        let weight = PackedMatrix::read(Isa::best(), &rows, outputs, inputs, packing)?;
        let packed = Packed::new(weight, self.bias.is_some(), name, weights)?;
        self.packed = Some(packed);
        Ok(self.bytes())
    }

    fn packed_bytes(&self, name: &str, weights: &Weights, packing: Packing) -> Result<WeightBytes> {
        let [outputs, inputs] = self.weight.lazy_shape().dims();
        let bias = self.bias.as_ref().map_or(0, |_| outputs);
        bytes_of(name, weights, bias, |rows| {
            PackedMatrix::bytes_of(Isa::best(), rows, outputs, inputs, packing)
        })
    }

    fn side(&self, addition: Addition, device: &Device, dtype: DType) -> Option<Result<AnySide>> {
        let [outputs, inputs] = self.weight.lazy_shape().dims();
        let low = |rank, weight| Self::of(weight, [rank, inputs], device, dtype);
        let high = |rank: Option<usize>, weight| {
            Self::of(weight, [outputs, rank.unwrap_or(inputs)], device, dtype)
        };
        let side = Side::new(addition, device, dtype, low, high);
        Some(side.map(|side| AnySide::Linear(Arc::new(side))))
    }

    fn accepts(&self, side: &AnySide) -> bool {
        let sides = |layer: &Self| layer.weight.lazy_shape().dims::<2>();
        let [outputs, inputs] = sides(self);
        match side {
            AnySide::Linear(side) => side.fits(
                [inputs, outputs],
                |layer| sides(layer)[1],
                |layer| sides(layer)[0],
            ),
            AnySide::Conv2d(_) => false,
        }
    }

    fn put_beside(&mut self, side: &AnySide, factor: f32) {
        if let AnySide::Linear(side) = side {
            self.beside.push(side.clone(), factor);
        }
    }
}
