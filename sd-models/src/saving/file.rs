//! A safetensors file, written from its beginning to its end.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use burn::tensor::DType;
use serde::Serialize;

use super::values::convert;
use super::{Tensor, TensorFile, Values, Written};
use crate::weights::Stored;
use crate::{Error, Result};

/// Values that are in memory at a time.
const PIECE: usize = 1 << 20;

/// A tensor's entry in the header.
#[derive(Serialize)]
struct Entry<'a> {
    dtype: &'static str,
    shape: &'a [usize],
    data_offsets: [u64; 2],
}

#[derive(Serialize)]
#[serde(untagged)]
enum Field<'a> {
    Notes(&'a BTreeMap<String, String>),
    Tensor(Entry<'a>),
}

pub(super) fn write(
    file: &TensorFile,
    to: &mut dyn Write,
    path: &Path,
    dtype: Option<DType>,
) -> Result<Written> {
    let mut tensors = Vec::new();
    for (name, tensor) in &file.tensors {
        let dtype = match dtype {
            Some(dtype) => dtype,
            None => tensor.values.dtype()?,
        };
        tensors.push((name.as_str(), tensor, dtype));
    }
    // Wider numbers first, so that all are aligned, as the reference writer does.
    tensors.sort_by_key(|(name, _, dtype)| (std::cmp::Reverse(dtype.size()), *name));

    let mut header = BTreeMap::from([("__metadata__", Field::Notes(&file.notes))]);
    let mut end = 0;
    for (name, tensor, dtype) in &tensors {
        let start = end;
        let elements = tensor.shape.iter().map(|&side| side as u64);
        end += elements.product::<u64>() * dtype.size() as u64;
        let entry = Entry {
            dtype: spelt(*dtype).ok_or_else(|| Error::Unsupported {
                path: path.into(),
                what: format!("{dtype:?} is no number type of this file"),
            })?,
            shape: &tensor.shape,
            data_offsets: [start, end],
        };
        header.insert(name, Field::Tensor(entry));
    }
    let json = |source| Error::Json {
        path: path.into(),
        source,
    };
    let mut header = serde_json::to_vec(&header).map_err(json)?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut output = Output {
        to,
        path,
        bytes: 0,
        overflows: Vec::new(),
    };
    output.put(&(header.len() as u64).to_le_bytes())?;
    output.put(&header)?;
    for (name, tensor, dtype) in &tensors {
        output.tensor(name, tensor, *dtype)?;
    }
    if let Some(dtype) = dtype
        && !output.overflows.is_empty()
    {
        return Err(Error::Overflow {
            path: path.into(),
            dtype: spelt(dtype).unwrap_or_default(),
            tensors: output.overflows,
        });
    }
    Ok(Written {
        tensors: tensors.len(),
        bytes: output.bytes,
    })
}

/// A number type as safetensors spells it.
fn spelt(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F64 => "F64",
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        _ => return None,
    })
}

struct Output<'a> {
    to: &'a mut dyn Write,
    path: &'a Path,
    bytes: u64,
    /// Names of tensors of which values became infinite, and how many.
    overflows: Vec<(String, u64)>,
}

impl Output<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.to.write_all(bytes);
        written.map_err(|source| Error::io(self.path, source))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn tensor(&mut self, name: &str, tensor: &Tensor, dtype: DType) -> Result<()> {
        let mut lost = 0;
        match &tensor.values {
            Values::None => {}
            Values::Whole(stored) => lost += self.values(stored, dtype)?,
            Values::Rows(parts, count) => {
                if parts.len() != *count {
                    let (found, path) = (parts.len(), self.path.into());
                    let what = format!("of the {count} parts of {name} there are {found}");
                    return Err(Error::Unsupported { path, what });
                }
                for part in parts.values() {
                    lost += self.values(part, dtype)?;
                }
            }
            Values::Transposed(stored, sides) => {
                lost += self.transposed(stored, *sides, dtype)?;
            }
        }
        if lost > 0 {
            self.overflows.push((name.into(), lost));
        }
        Ok(())
    }

    /// All values of a tensor; gives the number of those that became infinite.
    fn values(&mut self, stored: &Stored, dtype: DType) -> Result<u64> {
        let from = stored.check_floats()?;
        let (mut lost, mut converted) = (0, Vec::new());
        let mut values = vec![0; stored.elements().min(PIECE) * from.size()];
        for first in (0..stored.elements()).step_by(PIECE) {
            let count = PIECE.min(stored.elements() - first);
            let values = &mut values[..count * from.size()];
            stored.read_at(first, values)?;
            converted.clear();
            lost += convert(from, values, dtype, &mut converted);
            self.put(&converted)?;
        }
        Ok(lost)
    }

    /// The columns of a matrix one after the other. It is in memory meanwhile: only projections of
    /// the pooled prompt are stored so, which are small.
    fn transposed(&mut self, stored: &Stored, sides: [usize; 2], dtype: DType) -> Result<u64> {
        let [rows, columns] = sides;
        let from = stored.check_floats()?;
        let mut values = vec![0; stored.elements() * from.size()];
        stored.read_at(0, &mut values)?;
        let mut converted = Vec::new();
        let lost = convert(from, &values, dtype, &mut converted);
        let size = dtype.size();
        let mut turned = Vec::with_capacity(converted.len());
        for column in 0..columns {
            for row in 0..rows {
                let at = (row * columns + column) * size;
                turned.extend_from_slice(&converted[at..at + size]);
            }
        }
        self.put(&turned)?;
        Ok(lost)
    }
}
