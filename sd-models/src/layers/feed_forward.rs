use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};

use sd_core::WeightBytes;
use sd_kernels::{Isa, PackedGeglu, Packing};

use super::cpu::Packed;
use super::pack::bytes_of;
use super::{Addition, AnySide, Linear, Pack, PackLayer, Stream, Unpacked, dispatch, join};
use crate::Result;
use crate::weights::Weights;

/// The two-layer network a transformer block applies to each token by itself.
#[derive(Module, Debug)]
pub(crate) struct FeedForward {
    /// In, dropout, out, as checkpoints number them.
    net: (Geglu, Dropout, Linear),
}

impl FeedForward {
    /// A network of inner width 4 · `width` whose weights are still to be loaded.
    pub(crate) fn new(width: usize, device: &Device) -> Self {
        let inner = 4 * width;
        let geglu = Geglu::new(width, inner, device);
        Self {
            net: (geglu, Dropout, Linear::new(inner, width, true, device)),
        }
    }

    /// `[n, tokens, width]` to the same shape, added to `residual`.
    pub(crate) fn forward(&self, x: Tensor<3>, residual: Tensor<3>) -> Stream {
        let (geglu, Dropout, out) = &self.net;
        out.stream(dispatch::geglu(geglu, x), Some(residual))
    }
}

impl Pack for FeedForward {
    fn layers<'a>(&'a mut self, name: &str, layers: &mut Vec<Unpacked<'a>>) {
        let (geglu, Dropout, out) = &mut self.net;
        geglu.layers(&join(name, "net.0"), layers);
        out.layers(&join(name, "net.2"), layers);
    }
}

/// A linear layer gated by the GELU of another (Shazeer 2020, arXiv:2002.05202).
#[derive(Module, Debug)]
pub(crate) struct Geglu {
    /// Both layers in one: the first half of the output is gated by the second.
    pub(super) proj: Linear,
    #[module(skip)]
    pub(super) packed: Option<Packed<PackedGeglu>>,
}

impl Geglu {
    /// A layer of `inputs` to `outputs` features whose weights are still to be loaded.
    pub(crate) fn new(inputs: usize, outputs: usize, device: &Device) -> Self {
        Self {
            proj: Linear::new(inputs, 2 * outputs, true, device),
            packed: None,
        }
    }
}

impl Pack for Geglu {
    fn layers<'a>(&'a mut self, name: &str, layers: &mut Vec<Unpacked<'a>>) {
        let name = join(name, "proj");
        layers.push(Unpacked { name, layer: self });
    }
}

impl PackLayer for Geglu {
    fn pack(&mut self, name: &str, weights: &Weights, packing: Packing) -> Result<WeightBytes> {
        let [outputs, inputs] = self.proj.weight.lazy_shape().dims();
        let rows = weights.rows(name)?;
        let weight = PackedGeglu::read(Isa::best(), &rows, outputs / 2, inputs, packing)?;
        let bytes = weight.bytes();
        let packed = Packed::new(weight, self.proj.bias.is_some(), name, weights)?;
        Ok(self.packed.insert(packed).bytes(bytes))
    }

    fn packed_bytes(&self, name: &str, weights: &Weights, packing: Packing) -> Result<WeightBytes> {
        let [outputs, inputs] = self.proj.weight.lazy_shape().dims();
        let bias = self.proj.bias.as_ref().map_or(0, |_| outputs);
        bytes_of(name, weights, bias, |rows| {
            PackedGeglu::bytes_of(Isa::best(), rows, outputs / 2, inputs, packing)
        })
    }

    fn side(&self, addition: Addition, device: &Device, dtype: DType) -> Option<Result<AnySide>> {
        self.proj.side(addition, device, dtype)
    }

    fn accepts(&self, side: &AnySide) -> bool {
        self.proj.accepts(side)
    }

    fn put_beside(&mut self, side: &AnySide, factor: f32) {
        self.proj.put_beside(side, factor);
    }
}

/// Does nothing when a network is used, but takes a number in the list it stands in.
#[derive(Module, Debug)]
pub(crate) struct Dropout;
