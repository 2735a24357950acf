//! Weights written to a file: under the names of another layout, in another number type, a few
//! megabytes in memory at a time.

mod file;
mod values;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use burn::tensor::{DType, FloatDType};

use crate::ldm::{Place, Storage};
use crate::weights::{Stored, Weights};
use crate::{Error, Result};

/// Tensors to be written as one safetensors file, whose values are still in the files they come
/// from.
///
/// ```
/// use sd_models::{TensorFile, Weights};
///
/// # fn main() -> sd_models::Result<()> {
/// # let empty = b"\x02\0\0\0\0\0\0\0{}";
/// # let weights = Weights::from_bytes("old.safetensors", empty.as_slice())?;
/// let mut file = TensorFile::new();
/// file.note("modelspec.title", "a copy");
/// file.add_stored(&weights)?;
/// let mut bytes = Vec::new();
/// file.write(&mut bytes, "new.safetensors".as_ref(), None)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TensorFile {
    tensors: BTreeMap<String, Tensor>,
    notes: BTreeMap<String, String>,
}

/// One tensor of the file, and where its values are.
#[derive(Debug)]
struct Tensor {
    shape: Vec<usize>,
    values: Values,
}

#[derive(Debug)]
enum Values {
    /// None at all: a mark.
    None,
    /// Of a tensor whose values are in the same order.
    Whole(Stored),
    /// Of a matrix of these rows and columns, which are this one's columns and rows.
    Transposed(Stored, [usize; 2]),
    /// Of tensors one below the other, so many of them.
    Rows(BTreeMap<usize, Stored>, usize),
}

/// What [`TensorFile::write`] wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// Number of tensors.
    pub tensors: usize,
    /// Size of the file in bytes.
    pub bytes: u64,
}

impl Default for TensorFile {
    fn default() -> Self {
        Self::new()
    }
}

impl TensorFile {
    /// A file without tensors. It says that they are PyTorch's, without which transformers opens
    /// none.
    pub fn new() -> Self {
        Self {
            tensors: BTreeMap::new(),
            notes: BTreeMap::from([("format".into(), "pt".into())]),
        }
    }

    /// Adds an entry to the file's `__metadata__`.
    pub fn note(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.notes.insert(name.into(), value.into());
    }

    /// Adds a tensor of no elements, whose name is all that it says.
    pub fn mark(&mut self, name: impl Into<String>) {
        let mark = Tensor {
            shape: vec![0],
            values: Values::None,
        };
        self.tensors.insert(name.into(), mark);
    }

    /// Adds all tensors of `weights`, under the names and with the shapes they have in their file.
    /// Gives the names of those that are not of f16, bf16, f32 or f64, which are left out: counters
    /// and the like.
    ///
    /// # Errors
    /// [`Error::Safetensors`] when a name is there already.
    pub fn add_stored(&mut self, weights: &Weights) -> Result<Vec<String>> {
        let mut left_out = Vec::new();
        for stored in weights.all() {
            if stored.check_floats().is_err() {
                left_out.push(stored.name_in_file().into());
                continue;
            }
            let tensor = Tensor {
                shape: stored.shape().to_vec(),
                values: Values::Whole(stored.clone()),
            };
            self.insert(weights, stored.name_in_file().into(), tensor)?;
        }
        Ok(left_out)
    }

    /// Adds the tensors of a component: `shapes` are its parameters, and `place` says where each of
    /// them lies.
    ///
    /// # Errors
    /// As [`add_stored`](Self::add_stored); [`Error::Unsupported`] for a tensor of other numbers;
    /// [`Error::Tensors`] unless `weights` has exactly these
    /// parameters; [`Error::Unsupported`] for one without a place.
    pub fn add(
        &mut self,
        weights: &Weights,
        shapes: &BTreeMap<String, Vec<usize>>,
        place: impl Fn(&str) -> Option<Place>,
    ) -> Result<()> {
        weights.check_shapes(shapes)?;
        for (name, shape) in shapes {
            let stored = weights.stored(name)?.clone();
            let Some(Place { name, storage }) = place(name) else {
                let what = format!("tensor {name} has no place in a file of this layout");
                let path = weights.path().into();
                return Err(Error::Unsupported { path, what });
            };
            let file_shape = storage.file_shape(shape);
            let values = match (storage, &shape[..]) {
                (Storage::Rows { part, of }, _) => {
                    let there = self.tensors.get_mut(&name).map(|tensor| &mut tensor.values);
                    if let Some(Values::Rows(parts, count)) = there
                        && *count == of
                        && !parts.contains_key(&part)
                    {
                        parts.insert(part, stored);
                        continue;
                    }
                    Values::Rows(BTreeMap::from([(part, stored)]), of)
                }
                (Storage::Transposed, &[rows, columns]) => {
                    Values::Transposed(stored, [rows, columns])
                }
                _ => Values::Whole(stored),
            };
            let tensor = Tensor {
                shape: file_shape,
                values,
            };
            self.insert(weights, name, tensor)?;
        }
        Ok(())
    }

    fn insert(&mut self, weights: &Weights, name: String, tensor: Tensor) -> Result<()> {
        if self.tensors.contains_key(&name) {
            let reason = format!("two of its tensors would be called {name}");
            return Err(Error::safetensors(weights.path(), reason));
        }
        self.tensors.insert(name, tensor);
        Ok(())
    }

    /// Writes the file to `to`, which errors call `path`, with all tensors in the precision `dtype`,
    /// or each in its own.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written or a source not be read any more;
    /// [`Error::Overflow`], at the end, when values of some tensors are too large for `dtype`: a
    /// network with one infinite weight draws nothing.
    pub fn write(
        &self,
        to: &mut dyn Write,
        path: &Path,
        dtype: Option<FloatDType>,
    ) -> Result<Written> {
        file::write(self, to, path, dtype.map(DType::from))
    }
}

impl Values {
    fn parts(&self) -> impl Iterator<Item = &Stored> {
        let (one, several) = match self {
            Self::None => (None, None),
            Self::Whole(stored) | Self::Transposed(stored, _) => (Some(stored), None),
            Self::Rows(parts, _) => (None, Some(parts.values())),
        };
        one.into_iter().chain(several.into_iter().flatten())
    }

    /// The number type that holds all parts.
    fn dtype(&self) -> Result<DType> {
        let mut found = None;
        for part in self.parts() {
            let dtype = part.check_floats()?;
            found = Some(found.map_or(dtype, |found| wider(found, dtype)));
        }
        Ok(found.unwrap_or(DType::F32))
    }
}

/// The number type that holds the values of both.
fn wider(a: DType, b: DType) -> DType {
    match (a, b) {
        _ if a == b => a,
        (DType::F64, _) | (_, DType::F64) => DType::F64,
        _ => DType::F32,
    }
}
