//! Files of tensors of every kind, under one trait.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::DType;
use sd_kernels::Blocks;

use super::content::Content;
use super::gguf::Gguf;
use super::safetensors::Safetensors;
use super::torch::Torch;
use crate::files::Located;
use crate::{Error, FileKind, Result};

/// Tensors in a file: their names, shapes and number types, and their values some at a time.
///
/// What a file holds is known when it is opened. Values are read only when they are asked for, by
/// several threads at once, and as few as have room in what the caller brings: a source keeps none
/// of them in memory. Safetensors files, PyTorch checkpoints and GGUF files are sources, see
/// [`open_source`]; a program may bring its own to [`Weights::from_source`](crate::Weights).
pub trait TensorSource: Send + Sync {
    /// The file, for messages.
    fn path(&self) -> &Path;

    /// Its tensors, each name once.
    fn tensors(&self) -> &[TensorInfo];

    /// Notes that the file has beside its tensors, by name: a safetensors file's `__metadata__`,
    /// the numbers and texts around a checkpoint's tensors, a GGUF file's.
    fn metadata(&self) -> &BTreeMap<String, String>;

    /// Fills `to` with values of the tensor of number `tensor` in [`tensors`](Self::tensors), in
    /// its [`dtype`](TensorInfo::dtype), little-endian, from the one of number `first` on in
    /// row-major order.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read any more; [`Error::Unsupported`] for a tensor
    /// without `dtype`, unless it is of I64, as which it is read then.
    fn read(&self, tensor: usize, first: usize, to: &mut [u8]) -> Result<()>;

    /// The quantised blocks that a tensor is made of, of its values in row-major order; `None` where
    /// it is of none, and [`read`](Self::read) alone gives its values.
    fn blocks(&self, tensor: usize) -> Option<Blocks> {
        let _ = tensor;
        None
    }

    /// Fills `to` with a tensor's blocks as the file has them, from the one of number `first` on.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read any more; [`Error::Unsupported`] for a tensor
    /// without [`blocks`](Self::blocks).
    fn read_blocks(&self, tensor: usize, first: usize, to: &mut [u8]) -> Result<()> {
        let _ = (first, to);
        Err(no_blocks(self.path(), &self.tensors()[tensor]))
    }
}

/// Name, shape and number type of a tensor in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// The name it has in the file.
    pub name: String,
    /// Its sides, outermost first; none for a single number.
    pub shape: Vec<usize>,
    /// The number type in the file, spelt as safetensors and GGUF do: `F16`, `I64`, `Q8_0`.
    pub stored: &'static str,
    /// The type in which its values are read: f16, bf16, f32 or f64, quantised ones in f32; `None`
    /// where they are no such numbers.
    pub dtype: Option<DType>,
}

impl TensorInfo {
    /// Number of values.
    pub fn elements(&self) -> u64 {
        let sides = self.shape.iter().map(|&side| side as u64);
        sides.fold(1, u64::saturating_mul)
    }

    /// Bytes of a value as [`TensorSource::read`] gives it from the file at `path`.
    ///
    /// Networks have no whole numbers, but trainers note some beside them.
    pub(super) fn value_bytes(&self, path: &Path) -> Result<usize> {
        let floats = self.dtype.map(|dtype| dtype.size());
        let whole = (self.stored == "I64").then_some(size_of::<i64>());
        floats.or(whole).ok_or_else(|| no_floats(path, self))
    }
}

/// Formats of the files that can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Safetensors,
    Torch,
    Gguf,
}

/// A file of which all is known but the values.
pub(crate) struct Opened {
    pub(crate) source: Arc<dyn TensorSource>,
    pub(crate) format: Format,
    /// The fault of a file that ends before its tensors do.
    pub(crate) cut_short: Option<CutShort>,
}

/// A file that ends before its tensors do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CutShort {
    pub(crate) bytes: u64,
    pub(crate) tensor: String,
}

impl std::fmt::Display for CutShort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bytes, tensor } = self;
        write!(
            f,
            "the file ends {bytes} bytes before tensor {tensor} does (cut short?)"
        )
    }
}

/// Opens a file of tensors: safetensors, a PyTorch checkpoint (`.ckpt`, `.pth`, `.bin`) or GGUF,
/// whatever it is called. What it holds is checked, no value is read.
///
/// # Errors
/// [`Error::Io`] when it cannot be read; [`Error::Safetensors`], [`Error::Checkpoint`] and
/// [`Error::Gguf`] when it is damaged; [`Error::Refused`] when a checkpoint asks for anything to be
/// run; [`Error::Kind`] when it is something else, such as a Git LFS pointer or a web page.
pub fn open_source(path: impl Into<PathBuf>) -> Result<Arc<dyn TensorSource>> {
    open(Located::Disk(path.into()))?.sound()
}

/// Opens a file, even one that is cut short behind its header.
pub(crate) fn open(located: Located) -> Result<Opened> {
    let (path, content, kind) = match located.here()? {
        Located::Disk(path) | Located::Remote(path, ..) => {
            let io = |source| Error::io(&path, source);
            let file = File::open(&path).map_err(io)?;
            let size = file.metadata().map_err(io)?.len();
            let kind = FileKind::of_file(&path).unwrap_or(FileKind::Unknown);
            (path, Content::File(Arc::new(file), size), kind)
        }
        Located::Memory(path, bytes) => {
            let kind = FileKind::of_bytes(&bytes);
            (path, Content::Memory(bytes), kind)
        }
        Located::Tensors(source) => {
            return Ok(Opened {
                source,
                format: Format::Safetensors,
                cut_short: None,
            });
        }
    };
    match kind {
        FileKind::Torch => Ok(Opened {
            source: Arc::new(Torch::open(path, content)?),
            format: Format::Torch,
            cut_short: None,
        }),
        FileKind::Gguf => {
            let (source, cut_short) = Gguf::open(path, content)?;
            Ok(Opened {
                source: Arc::new(source),
                format: Format::Gguf,
                cut_short,
            })
        }
        kind => {
            let opened = Safetensors::open(path.clone(), content);
            let (source, cut_short) = opened.map_err(|reason| unsound(&path, kind, reason))?;
            Ok(Opened {
                source: Arc::new(source),
                format: Format::Safetensors,
                cut_short,
            })
        }
    }
}

impl Opened {
    /// The source, unless its file is cut short.
    pub(crate) fn sound(self) -> Result<Arc<dyn TensorSource>> {
        let Some(cut) = self.cut_short else {
            return Ok(self.source);
        };
        let path = self.source.path();
        Err(match self.format {
            Format::Gguf => Error::gguf(path, cut),
            Format::Safetensors | Format::Torch => Error::safetensors(path, cut),
        })
    }
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

/// The error of a tensor that is not made of blocks which are read as they are.
pub(super) fn no_blocks(path: &Path, tensor: &TensorInfo) -> Error {
    let (name, stored) = (&tensor.name, tensor.stored);
    let what = format!("tensor {name} is of {stored}; expected quantised blocks");
    Error::Unsupported {
        path: path.into(),
        what,
    }
}

/// The error of a tensor that is not made of numbers that a network has.
pub(super) fn no_floats(path: &Path, tensor: &TensorInfo) -> Error {
    let (name, stored) = (&tensor.name, tensor.stored);
    let what = format!("tensor {name} is of {stored}; expected F16, BF16, F32 or F64");
    Error::Unsupported {
        path: path.into(),
        what,
    }
}
