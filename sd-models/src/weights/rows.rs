//! Tensors read a few rows at a time, by several threads at once.

use std::ops::Range;

use burn::tensor::DType;
use sd_kernels::WeightRows;

use super::{Stored, Weights};
use crate::{Error, Result};

impl Weights {
    /// The tensor `{layer}.weight`, to be packed.
    pub(crate) fn rows(&self, layer: &str) -> Result<Rows<'_>> {
        self.stored(&format!("{layer}.weight")).map(Rows)
    }

    /// All values of a tensor in f32.
    pub(crate) fn values(&self, name: &str) -> Result<Vec<f32>> {
        let data = self.stored(name)?.read()?;
        let values = data.convert::<f32>().try_into_vec::<f32>();
        values.map_err(|e| self.unreadable(name, e))
    }

    pub(crate) fn stored(&self, name: &str) -> Result<&Stored> {
        let tensor = self.tensors.get(name);
        tensor.ok_or_else(|| self.unreadable(name, "it is gone"))
    }

    fn unreadable(&self, name: &str, why: impl std::fmt::Display) -> Error {
        Error::Unsupported {
            path: self.path.clone(),
            what: format!("tensor {name} cannot be read: {why}"),
        }
    }
}

/// A tensor `[rows, …]` in its file.
pub(crate) struct Rows<'a>(&'a Stored);

impl WeightRows for Rows<'_> {
    type Error = Error;

    fn dtype(&self) -> sd_kernels::DType {
        match self.0.dtype {
            Some(DType::F16) => sd_kernels::DType::F16,
            Some(DType::BF16) => sd_kernels::DType::Bf16,
            // f64 is made f32 while it is read.
            _ => sd_kernels::DType::F32,
        }
    }

    fn read(&self, rows: Range<usize>, to: &mut [u8]) -> Result<()> {
        let count = rows.len().max(1);
        // Elements of a row as the reader sees it; the file's tensor may have units among its sides.
        let row = to.len() / count / WeightRows::dtype(self).bytes();
        if self.0.dtype != Some(DType::F64) {
            return self.0.read_at(rows.start * row, to);
        }
        let mut wide = vec![0; 2 * to.len()];
        self.0.read_at(rows.start * row, &mut wide)?;
        let (wide, _) = wide.as_chunks::<8>();
        for (to, x) in to.chunks_exact_mut(4).zip(wide) {
            to.copy_from_slice(&(f64::from_le_bytes(*x) as f32).to_ne_bytes());
        }
        Ok(())
    }
}

impl Stored {
    /// Fills `to` with values from the one of number `first` on.
    pub(crate) fn read_at(&self, first: usize, to: &mut [u8]) -> Result<()> {
        self.source.read(self.index, first, to)
    }
}
