//! Weights as they lie in safetensors files, and how they get into a module.

mod find;
mod header;
mod load;
mod names;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use burn_store::{ModuleStore, SafetensorsStore, bridge, burn_pack};

use crate::files::Located;
use crate::{Error, Result};

/// The tensors of a checkpoint: names, shapes and number types, the values still in the file.
///
/// A file on disk is memory-mapped and must not change while this lives. Names are today's
/// (diffusers 0.42, transformers 5), whichever generation wrote the file.
#[derive(Clone)]
pub struct Weights {
    path: PathBuf,
    tensors: BTreeMap<String, Stored>,
}

#[derive(Clone)]
struct Stored {
    shape: Vec<usize>,
    dtype: DType,
    data: Data,
    /// The file, which differs from [`Weights::path`] in a sharded checkpoint.
    file: PathBuf,
}

#[derive(Clone)]
enum Data {
    Mapped(burn_pack::Tensor),
    Embedded(&'static [u8]),
}

impl Weights {
    /// Opens one safetensors file. The header is checked, no value is read.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read; [`Error::Safetensors`] when it is damaged: cut
    /// short, empty, tensors outside the file or over one another, of sizes that do not fit their
    /// shapes, twice of one name; [`Error::Unsupported`] when a tensor is not of f16, bf16, f32
    /// or f64.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        Self::from_located(Located::Disk(path.into()))
    }

    /// The tensors of a safetensors file that is part of the program; errors call it `path`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(path: impl Into<PathBuf>, bytes: &'static [u8]) -> Result<Self> {
        Self::from_located(Located::Embedded(path.into(), bytes))
    }

    fn from_located(located: Located) -> Result<Self> {
        let (path, entries, mut mapped) = match &located {
            Located::Disk(path) => (path, read_header(path)?, map(path)?),
            Located::Embedded(path, bytes) => {
                let entries = header::read(*bytes, bytes.len() as u64);
                let entries = entries.map_err(|e| Error::safetensors(path, e))?;
                (path, entries, BTreeMap::new())
            }
        };
        let mut tensors = BTreeMap::new();
        for entry in entries {
            let Some(name) = names::current(&entry.name) else {
                continue;
            };
            let Some(dtype) = entry.dtype.filter(DType::is_float) else {
                let (name, dtype) = (entry.name, entry.dtype_name);
                return Err(Error::Unsupported {
                    path: path.clone(),
                    what: format!("tensor {name} is of {dtype}; expected F16, BF16, F32 or F64"),
                });
            };
            let data = match &located {
                Located::Embedded(_, bytes) => {
                    let [from, to] = entry.range.map(|offset| offset as usize);
                    Data::Embedded(&bytes[from..to])
                }
                Located::Disk(_) => Data::Mapped(mapped.remove(&entry.name).ok_or_else(|| {
                    Error::safetensors(path, format!("tensor {} is gone", entry.name))
                })?),
            };
            let stored = Stored {
                shape: entry.shape,
                dtype,
                data,
                file: path.clone(),
            };
            insert(&mut tensors, path, name, stored)?;
        }
        Ok(Self {
            path: path.clone(),
            tensors,
        })
    }

    /// The file, or the index of a sharded checkpoint.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Each tensor's name and shape, sorted by name.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        let tensors = self.tensors.iter();
        tensors.map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice()))
    }

    /// The number type a tensor has in the file.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.tensors.get(name).map(|tensor| tensor.dtype)
    }
}

impl Stored {
    /// Reads the values.
    fn read(&self) -> Result<TensorData> {
        match &self.data {
            Data::Mapped(tensor) => {
                bridge::to_data(tensor).map_err(|e| Error::safetensors(&self.file, e))
            }
            Data::Embedded(bytes) => Ok(TensorData::from_bytes_vec(
                bytes.to_vec(),
                self.shape.clone(),
                self.dtype,
            )),
        }
    }
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Weights")
            .field("path", &self.path)
            .field("tensors", &self.tensors.len())
            .finish()
    }
}

/// Adds a tensor; two of one name cannot both be right.
fn insert(
    tensors: &mut BTreeMap<String, Stored>,
    path: &Path,
    name: String,
    tensor: Stored,
) -> Result<()> {
    if tensors.contains_key(&name) {
        return Err(Error::safetensors(
            path,
            format!("tensor {name} is there twice"),
        ));
    }
    tensors.insert(name, tensor);
    Ok(())
}

fn read_header(path: &Path) -> Result<Vec<header::Entry>> {
    let io = |source| Error::Io {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    header::read(file, size).map_err(|reason| Error::safetensors(path, reason))
}

fn map(path: &Path) -> Result<BTreeMap<String, burn_pack::Tensor>> {
    let mut store = SafetensorsStore::from_file(path);
    let tensors = store.get_all_tensors();
    let tensors = tensors.map_err(|e| Error::safetensors(path, e))?;
    Ok(tensors.clone())
}
