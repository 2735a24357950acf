//! Weights as they lie in safetensors files, and how they get into a module.

mod find;
mod header;
mod load;
mod names;
mod rows;

pub use load::parameter_shapes;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{DType, TensorData};
use bytes::Bytes;

pub(crate) use load::size;

use crate::files::Located;
use crate::{Error, FileKind, Result};

/// The tensors of a checkpoint: names, shapes and number types, the values still in the file.
///
/// A tensor's values are read from the file when they are put into a module, a tensor or a few rows
/// of one at a time. Names are today's (diffusers 0.42, transformers 5), whichever generation
/// wrote the file.
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

// Read and not memory-mapped: burn-store's map parses the whole header again for every tensor (7 s
// for the 1680 of an SDXL U-Net), its pages count as the program's memory, and a file that is cut
// short meanwhile would end the program with a signal instead of an error.
#[derive(Clone)]
enum Data {
    /// From the first byte to the one behind the last, from the start of the file.
    File(Arc<File>, [u64; 2]),
    Memory(Bytes),
}

impl Weights {
    /// Opens one safetensors file. The header is checked, no value is read.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read; [`Error::Safetensors`] when it is damaged: cut
    /// short, empty, tensors outside the file or over one another, of sizes that do not fit their
    /// shapes, twice of one name; [`Error::Kind`] when it is something else, such as a Git LFS
    /// pointer, a web page or a PyTorch checkpoint; [`Error::Unsupported`] when a tensor is not of f16, bf16, f32
    /// or f64.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        Self::from_located(Located::Disk(path.into()))
    }

    /// The tensors of a safetensors file in memory, shared and not copied; errors call it `path`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(path: impl Into<PathBuf>, bytes: impl Into<Bytes>) -> Result<Self> {
        Self::from_located(Located::Memory(path.into(), bytes.into()))
    }

    fn from_located(located: Located) -> Result<Self> {
        let (path, entries, source) = match located {
            Located::Disk(path) => {
                let (entries, file) = open(&path)?;
                (path, entries, Source::File(Arc::new(file)))
            }
            Located::Memory(path, bytes) => {
                let entries = header::read(&bytes[..], bytes.len() as u64);
                let entries = entries.map_err(|e| unsound(&path, FileKind::of_bytes(&bytes), e))?;
                (path, entries, Source::Memory(bytes))
            }
        };
        let mut tensors = BTreeMap::new();
        for entry in entries {
            let Some(name) = names::current(&entry.name) else {
                continue;
            };
            let Some(dtype) = entry.dtype.filter(DType::is_float) else {
                let (name, dtype) = (entry.name, entry.dtype_name);
                let what = format!("tensor {name} is of {dtype}; expected F16, BF16, F32 or F64");
                return Err(Error::Unsupported { path, what });
            };
            let stored = Stored {
                shape: entry.shape,
                dtype,
                data: source.data(entry.range),
                file: path.clone(),
            };
            insert(&mut tensors, &path, name, stored)?;
        }
        Ok(Self { path, tensors })
    }

    /// The file, or the index of a sharded checkpoint.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// True where there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Each tensor's name and shape, sorted by name.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        let tensors = self.tensors.iter();
        tensors.map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice()))
    }

    /// The tensors whose names `keep` holds of.
    pub(crate) fn only(&self, keep: impl Fn(&str) -> bool) -> Self {
        let tensors = self.tensors.iter().filter(|(name, _)| keep(name));
        Self {
            path: self.path.clone(),
            tensors: tensors.map(|(n, t)| (n.clone(), t.clone())).collect(),
        }
    }

    /// The number type a tensor has in the file.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.tensors.get(name).map(|tensor| tensor.dtype)
    }
}

/// The place of the values of one file's tensors.
enum Source {
    File(Arc<File>),
    Memory(Bytes),
}

impl Source {
    /// The values in `range`, which the header's check found within the file.
    fn data(&self, range: [u64; 2]) -> Data {
        match self {
            Self::File(file) => Data::File(file.clone(), range),
            Self::Memory(bytes) => {
                let [from, to] = range.map(|offset| offset as usize);
                Data::Memory(bytes.slice(from..to))
            }
        }
    }
}

impl Stored {
    /// Reads the values.
    fn read(&self) -> Result<TensorData> {
        let size = match &self.data {
            Data::Memory(bytes) => bytes.len(),
            Data::File(_, [from, to]) => (to - from) as usize,
        };
        let mut bytes = vec![0; size];
        self.read_at(0, &mut bytes)?;
        let shape = self.shape.clone();
        Ok(TensorData::from_bytes_vec(bytes, shape, self.dtype))
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

fn open(path: &Path) -> Result<(Vec<header::Entry>, File)> {
    let io = |source| Error::io(path, source);
    let file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let entries = header::read(&file, size).map_err(|e| {
        let kind = FileKind::of_file(path).unwrap_or(FileKind::Unknown);
        unsound(path, kind, e)
    })?;
    Ok((entries, file))
}

/// The error of a file whose header has the fault `reason`: what else it is, where that shows.
fn unsound(path: &Path, found: FileKind, reason: String) -> Error {
    match found {
        FileKind::Empty | FileKind::Safetensors | FileKind::Unknown => {
            Error::safetensors(path, reason)
        }
        found => Error::Kind {
            path: path.into(),
            found,
            expected: "safetensors",
        },
    }
}
