//! Safetensors files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::content::Content;
use super::header;
use super::source::{CutShort, TensorInfo, TensorSource};
use crate::{Error, Result};

/// A safetensors file.
pub(super) struct Safetensors {
    path: PathBuf,
    content: Content,
    tensors: Vec<TensorInfo>,
    /// For each tensor the place of its first byte in the file.
    starts: Vec<u64>,
    metadata: BTreeMap<String, String>,
}

impl Safetensors {
    /// Reads and checks the header. The error is the reason in words.
    pub(super) fn open(
        path: PathBuf,
        content: Content,
    ) -> Result<(Self, Option<CutShort>), String> {
        let header = header::read(content.stream(0, content.len()), content.len())?;
        let (tensors, starts) = header.entries.into_iter().unzip();
        let source = Self {
            path,
            content,
            tensors,
            starts,
            metadata: header.metadata,
        };
        Ok((source, header.cut_short))
    }
}

impl TensorSource for Safetensors {
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
        let size = self.tensors[tensor].value_bytes(&self.path)?;
        let offset = self.starts[tensor] + (first * size) as u64;
        let read = self.content.read_at(offset, to);
        read.map_err(|source| Error::io(&self.path, source))
    }
}
