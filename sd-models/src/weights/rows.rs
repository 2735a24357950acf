//! Tensors read a few rows at a time, by several threads at once.

use std::fs::File;
use std::io;
use std::ops::Range;

use burn::tensor::DType;
use sd_kernels::WeightRows;

use super::{Data, Stored, Weights};
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
        values.map_err(|e| Error::safetensors(&self.path, format!("tensor {name}: {e}")))
    }

    pub(super) fn stored(&self, name: &str) -> Result<&Stored> {
        let tensor = self.tensors.get(name);
        tensor.ok_or_else(|| Error::safetensors(&self.path, format!("tensor {name} is gone")))
    }
}

/// A tensor `[rows, …]` in its file.
pub(crate) struct Rows<'a>(&'a Stored);

impl WeightRows for Rows<'_> {
    type Error = Error;

    fn dtype(&self) -> sd_kernels::DType {
        match self.0.dtype {
            DType::F16 => sd_kernels::DType::F16,
            DType::BF16 => sd_kernels::DType::Bf16,
            // f64 is made f32 while it is read.
            _ => sd_kernels::DType::F32,
        }
    }

    fn read(&self, rows: Range<usize>, to: &mut [u8]) -> Result<()> {
        let count = rows.len().max(1);
        if self.0.dtype != DType::F64 {
            return self.0.read_at(rows.start * (to.len() / count), to);
        }
        let mut wide = vec![0; 2 * to.len()];
        self.0
            .read_at(rows.start * (wide.len() / count), &mut wide)?;
        let (wide, _) = wide.as_chunks::<8>();
        for (to, x) in to.chunks_exact_mut(4).zip(wide) {
            to.copy_from_slice(&(f64::from_le_bytes(*x) as f32).to_ne_bytes());
        }
        Ok(())
    }
}

impl Stored {
    /// Reads the tensor's bytes from the one of number `first` on. A file that was cut short since
    /// its header was read gives an error.
    pub(super) fn read_at(&self, first: usize, to: &mut [u8]) -> Result<()> {
        let read = match &self.data {
            Data::Memory(bytes) => match bytes.get(first..first + to.len()) {
                Some(bytes) => {
                    to.copy_from_slice(bytes);
                    Ok(())
                }
                None => Err(io::ErrorKind::UnexpectedEof.into()),
            },
            Data::File(file, range) => read_exact_at(file, to, range[0] + first as u64),
        };
        read.map_err(|source| Error::Io {
            path: self.file.clone(),
            source,
        })
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, to: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, to, offset)
}

#[cfg(not(unix))]
fn read_exact_at(mut file: &File, to: &mut [u8], offset: u64) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    use std::sync::{Mutex, PoisonError};

    // A file has one position for all threads.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(to)
}
