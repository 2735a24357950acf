use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};

use super::parameter;

/// A table of vectors, as `torch.nn.Embedding`.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[entries, width]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// A table whose entries are still to be loaded.
    pub fn new(entries: usize, width: usize, device: &Device) -> Self {
        Self {
            weight: parameter([entries, width], device),
        }
    }

    /// Indices `[n, l]`, each below the number of entries, to vectors `[n, l, width]`.
    pub fn forward(&self, indices: Tensor<2, Int>) -> Tensor<3> {
        burn::tensor::module::embedding(self.weight.val(), indices)
    }
}
