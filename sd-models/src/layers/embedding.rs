use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor};
use sd_core::WeightBytes;
use sd_kernels::{Packing, WeightStorage};

use super::{PackLayer, pack_itself, parameter};
use crate::Result;
use crate::weights::{Weights, size};

/// A table of vectors, as `torch.nn.Embedding`.
#[derive(Module, Debug)]
pub(crate) struct Embedding {
    /// `[entries, width]`.
    pub(crate) weight: Param<Tensor<2>>,
}

impl Embedding {
    /// A table whose entries are still to be loaded.
    pub(crate) fn new(entries: usize, width: usize, device: &Device) -> Self {
        Self {
            weight: parameter([entries, width], device),
        }
    }

    /// Indices `[n, l]`, each below the number of entries, to vectors `[n, l, width]` of the number
    /// type that the table has.
    pub(crate) fn forward(&self, indices: Tensor<2, Int>) -> Tensor<3> {
        burn::tensor::module::embedding(self.weight.val(), indices)
    }
}

pack_itself!(Embedding);

/// There is nothing to pack in a table that is only looked up, but it may stay half.
impl PackLayer for Embedding {
    fn pack(&mut self, name: &str, weights: &Weights, packing: Packing) -> Result<WeightBytes> {
        let name = format!("{name}.weight");
        let table = weights.tensor(&name, &self.weight, held(&name, weights, packing))?;
        let plain = size(&table);
        self.weight = Param::from_tensor(table);
        Ok(WeightBytes { plain, packed: 0 })
    }

    fn packed_bytes(&self, name: &str, weights: &Weights, packing: Packing) -> Result<WeightBytes> {
        let dtype = held(&format!("{name}.weight"), weights, packing);
        let numbers = self.weight.lazy_shape().num_elements();
        Ok(WeightBytes {
            plain: (numbers * dtype.size()) as u64,
            packed: 0,
        })
    }
}

/// The number type that the table `name` is held in.
fn held(name: &str, weights: &Weights, packing: Packing) -> DType {
    let keeps = packing.storage != WeightStorage::F32;
    match weights.dtype(name) {
        Some(half @ (DType::F16 | DType::BF16)) if keeps => half,
        _ => DType::F32,
    }
}
