//! Weights as they lie in files, and how they get into a module.

mod content;
mod find;
mod gguf;
mod header;
mod joined;
mod load;
mod names;
mod renamed;
mod rows;
mod safetensors;
mod source;
mod torch;

pub use load::parameter_shapes;
pub use renamed::Renamed;
pub use source::{TensorInfo, TensorSource, open_source};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{DType, TensorData};
use bytes::Bytes;

pub(crate) use joined::Joined;
pub(crate) use load::size;
pub(crate) use rows::{Rows, values};
pub(crate) use source::{Opened, open};

use crate::files::Located;
use crate::{Error, Result};

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

/// One tensor, still in its file.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) shape: Vec<usize>,
    /// `None` for numbers that no network has.
    pub(crate) dtype: Option<DType>,
    /// The file, which differs from [`Weights::path`] in a sharded checkpoint.
    pub(crate) source: Arc<dyn TensorSource>,
    /// Number of the tensor in it.
    pub(crate) index: usize,
}

impl Weights {
    /// Opens one file of any kind that [`open_source`] does. What it holds is checked, no value is
    /// read.
    ///
    /// # Errors
    /// As [`open_source`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        Self::from_located(Located::Disk(path.into()))
    }

    /// The tensors of a file in memory, shared and not copied; errors call it `path`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(path: impl Into<PathBuf>, bytes: impl Into<Bytes>) -> Result<Self> {
        Self::from_located(Located::Memory(path.into(), bytes.into()))
    }

    fn from_located(located: Located) -> Result<Self> {
        Self::from_source(source::open(located)?.sound()?)
    }

    /// The tensors of a source.
    ///
    /// # Errors
    /// [`Error::Safetensors`] when two of its names are the same by today's names.
    pub fn from_source(source: Arc<dyn TensorSource>) -> Result<Self> {
        let path = source.path().to_path_buf();
        let mut tensors = BTreeMap::new();
        for (index, info) in source.tensors().iter().enumerate() {
            let Some(name) = names::current(&info.name) else {
                continue;
            };
            let stored = Stored {
                shape: info.shape.clone(),
                dtype: info.dtype,
                source: source.clone(),
                index,
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

    /// All tensors, in the order of their names.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Stored> {
        self.tensors.values()
    }

    /// The tensors whose names `keep` holds of.
    pub(crate) fn only(&self, keep: impl Fn(&str) -> bool) -> Self {
        let tensors = self.tensors.iter().filter(|(name, _)| keep(name));
        Self {
            path: self.path.clone(),
            tensors: tensors.map(|(n, t)| (n.clone(), t.clone())).collect(),
        }
    }

    /// The tensor of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&Stored> {
        self.tensors.get(name)
    }

    /// Puts `tensor` in the place of the one of that name.
    pub(crate) fn replace(&mut self, name: &str, tensor: Stored) {
        self.tensors.insert(name.into(), tensor);
    }

    /// The number type in which a tensor's values are read; `None` where there is no such tensor,
    /// or one of numbers that no network has.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.tensors.get(name)?.dtype
    }
}

impl Stored {
    /// What its file says of it.
    pub(crate) fn info(&self) -> &TensorInfo {
        &self.source.tensors()[self.index]
    }

    /// Its file.
    pub(crate) fn path(&self) -> &Path {
        self.source.path()
    }

    /// The name that the tensor has in its file.
    pub(crate) fn name_in_file(&self) -> &str {
        &self.source.tensors()[self.index].name
    }

    /// The shape in the file.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of values.
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The number type of the values, which must be one that networks have.
    pub(crate) fn check_floats(&self) -> Result<DType> {
        let info = self.info();
        let none = || source::no_floats(self.source.path(), info);
        self.dtype.ok_or_else(none)
    }

    /// Reads the values.
    fn read(&self) -> Result<TensorData> {
        let dtype = self.check_floats()?;
        let mut bytes = vec![0; self.elements() * dtype.size()];
        self.read_at(0, &mut bytes)?;
        Ok(TensorData::from_bytes_vec(bytes, self.shape.clone(), dtype))
    }
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Stored").field(&self.name_in_file()).finish()
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
