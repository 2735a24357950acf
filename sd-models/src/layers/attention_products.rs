use sd_core::WeightBytes;
use sd_kernels::{Packing, Products};

use super::{PackLayer, pack_itself};
use crate::Result;
use crate::weights::Weights;

/// What an attention multiplies queries, keys and values with, which are no weights: it is told as a
/// layer of the name `{attention}.products` is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AttentionProducts(pub(crate) Products);

pack_itself!(AttentionProducts);

impl PackLayer for AttentionProducts {
    fn pack(&mut self, _: &str, _: &Weights, packing: Packing) -> Result<WeightBytes> {
        self.0 = packing.products;
        Ok(WeightBytes::default())
    }

    fn packed_bytes(&self, _: &str, _: &Weights, _: Packing) -> Result<WeightBytes> {
        Ok(WeightBytes::default())
    }
}
