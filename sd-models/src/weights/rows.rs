//! Tensors read a few rows at a time, by several threads at once.

use std::ops::Range;

use burn::tensor::DType;
use half::{bf16, f16};
use sd_kernels::{Blocks, WeightRows};

use super::source::no_floats;
use super::{Stored, TensorSource, Weights};
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

    fn blocks(&self) -> Option<Blocks> {
        self.0.source.blocks(self.0.index)
    }

    fn read_blocks(&self, first: usize, to: &mut [u8]) -> Result<()> {
        self.0.source.read_blocks(self.0.index, first, to)
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

/// All values of the tensor of number `tensor` of a file, in f32, which must be finite.
pub(crate) fn values(source: &dyn TensorSource, tensor: usize) -> Result<Vec<f32>> {
    let info = &source.tensors()[tensor];
    let dtype = info.dtype.ok_or_else(|| no_floats(source.path(), info))?;
    let values = f32s(source, tensor, dtype, 0, info.elements() as usize)?;
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(values),
        false => Err(Error::Unsupported {
            path: source.path().into(),
            what: format!("tensor {} holds a value that is not finite", info.name),
        }),
    }
}

/// `count` values of a tensor in f32, from the one of number `first` on.
fn f32s(
    source: &dyn TensorSource,
    tensor: usize,
    dtype: DType,
    first: usize,
    count: usize,
) -> Result<Vec<f32>> {
    let mut bytes = vec![0; count * dtype.size()];
    source.read(tensor, first, &mut bytes)?;
    Ok(match dtype {
        DType::F16 => values_of(&bytes, |b| f16::from_le_bytes(b).to_f32()),
        DType::BF16 => values_of(&bytes, |b| bf16::from_le_bytes(b).to_f32()),
        DType::F64 => values_of(&bytes, |b| f64::from_le_bytes(b) as f32),
        _ => values_of(&bytes, f32::from_le_bytes),
    })
}

fn values_of<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<N>();
    values.iter().map(|bytes| value(*bytes)).collect()
}

impl Stored {
    /// `count` values in f32, from the one of number `first` on.
    pub(crate) fn f32s(&self, first: usize, count: usize) -> Result<Vec<f32>> {
        f32s(
            &*self.source,
            self.index,
            self.check_floats()?,
            first,
            count,
        )
    }

    /// Fills `to` with values from the one of number `first` on.
    pub(crate) fn read_at(&self, first: usize, to: &mut [u8]) -> Result<()> {
        self.source.read(self.index, first, to)
    }
}
