//! PyTorch checkpoints (`.ckpt`, `.pt`, `.pth`, `.bin`), read by a reader that can make tensors and
//! nothing else.
//!
//! A checkpoint is a pickle, which is a program: it may name any function and have it called. The
//! reader here runs no program. It knows the opcodes and the few functions that checkpoints need
//! (`globals.rs`), what these make is plain data, and whatever else would be called is an error that
//! names it. Of anything that the pickle only names it keeps the name.

mod globals;
mod legacy;
mod pickle;
mod state;
mod view;
mod zip;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::content::Content;
use super::source::{TensorInfo, TensorSource};
use crate::{Error, Result};
use pickle::Pickle;
use view::View;

/// A fault of a checkpoint.
#[derive(Debug)]
enum Fault {
    Io(io::Error),
    /// It is damaged, or of a kind that is not read: the reason.
    Damaged(String),
    /// It would have something called: the opcode, and what.
    Refused(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged("it ends too early (cut short?)".into()),
            _ => Self::Io(error),
        }
    }
}

/// A [`Fault::Damaged`].
fn damaged(reason: impl Into<String>) -> Fault {
    Fault::Damaged(reason.into())
}

/// A checkpoint.
pub(super) struct Torch {
    path: PathBuf,
    content: Content,
    tensors: Vec<TensorInfo>,
    views: Vec<View>,
    metadata: BTreeMap<String, String>,
}

impl Torch {
    /// Reads what makes the tensors, and of these none.
    pub(super) fn open(path: PathBuf, content: Content) -> Result<Self> {
        let read = Self::read_all(&content).map_err(|fault| match fault {
            Fault::Io(source) => Error::io(&path, source),
            Fault::Damaged(reason) => Error::checkpoint(&path, reason),
            Fault::Refused(what) => Error::Refused {
                path: path.clone(),
                what,
            },
        });
        let (tensors, views, metadata) = read?;
        Ok(Self {
            path,
            content,
            tensors,
            views,
            metadata,
        })
    }

    #[allow(clippy::type_complexity, reason = "the fields of `Self`")]
    fn read_all(
        content: &Content,
    ) -> Result<(Vec<TensorInfo>, Vec<View>, BTreeMap<String, String>), Fault> {
        let mut magic = [0; 4];
        let is_zip = content.len() >= 4 && {
            content.read_at(0, &mut magic)?;
            magic == *b"PK\x03\x04"
        };
        let (pickle, starts) = match is_zip {
            true => zip::read(content)?,
            false => legacy::read(content)?,
        };
        let state = state::find(&pickle)?;
        let (mut tensors, mut views) = (Vec::new(), Vec::new());
        for (name, tensor) in state.tensors {
            let start = starts[tensor.storage];
            tensors.push(TensorInfo {
                name,
                shape: tensor.shape.clone(),
                stored: tensor.element.name,
                dtype: tensor.element.dtype,
            });
            views.push(View::new(tensor, start));
        }
        Ok((tensors, views, state.metadata))
    }
}

impl TensorSource for Torch {
    fn path(&self) -> &Path {
        &self.path
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn read(&self, tensor: usize, first: usize, to: &mut [u8]) -> Result<()> {
        self.tensors[tensor].value_bytes(&self.path)?;
        let read = self.views[tensor].read(&self.content, first, to);
        read.map_err(|source| Error::io(&self.path, source))
    }
}

/// A pickle, and for each of its storages the place of the first byte in the file.
type Located = (Pickle, Vec<u64>);
