//! GGUF files (ggml's `docs/gguf.md`), as stable-diffusion.cpp and ComfyUI-GGUF write them.
//!
//! Quantised tensors are read as the f32 that ggml makes of them, a few blocks at a time.

mod blocks;
mod header;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sd_kernels::Blocks;

use super::content::Content;
use super::source::{CutShort, TensorInfo, TensorSource, no_blocks};
use crate::{Error, Result};
use blocks::Encoding;

/// Bytes of quantised values that are in memory at once.
const WINDOW: usize = 1 << 16;

/// A GGUF file.
pub(super) struct Gguf {
    path: PathBuf,
    content: Content,
    tensors: Vec<TensorInfo>,
    /// For each tensor the place of its first byte and the encoding of its values.
    places: Vec<(u64, &'static Encoding)>,
    metadata: BTreeMap<String, String>,
}

impl Gguf {
    /// Reads and checks what stands before the values.
    pub(super) fn open(path: PathBuf, content: Content) -> Result<(Self, Option<CutShort>)> {
        let header = header::read(&content).map_err(|fault| match fault {
            header::Fault::Io(source) => Error::io(&path, source),
            header::Fault::Damaged(reason) => Error::gguf(&path, reason),
        })?;
        let (mut tensors, mut places) = (Vec::new(), Vec::new());
        for (info, start, encoding) in header.tensors {
            tensors.push(info);
            places.push((start, encoding));
        }
        let source = Self {
            path,
            content,
            tensors,
            places,
            metadata: header.metadata,
        };
        Ok((source, header.cut_short))
    }
}

impl TensorSource for Gguf {
    fn path(&self) -> &Path {
        &self.path
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn blocks(&self, tensor: usize) -> Option<Blocks> {
        self.places[tensor].1.blocks
    }

    fn read_blocks(&self, tensor: usize, first: usize, to: &mut [u8]) -> Result<()> {
        let (start, encoding) = self.places[tensor];
        if encoding.blocks.is_none() {
            return Err(no_blocks(&self.path, &self.tensors[tensor]));
        }
        let offset = start + (first * encoding.bytes) as u64;
        let io = |source| Error::io(&self.path, source);
        self.content.read_at(offset, to).map_err(io)
    }

    fn read(&self, tensor: usize, first: usize, to: &mut [u8]) -> Result<()> {
        let size = self.tensors[tensor].value_bytes(&self.path)?;
        let (start, encoding) = self.places[tensor];
        let io = |source| Error::io(&self.path, source);
        let Some(blocks) = encoding.blocks else {
            let offset = start + (first * size) as u64;
            return self.content.read_at(offset, to).map_err(io);
        };
        // Whole blocks, of which the first and the last may be wanted in part.
        let end = first + to.len() / size_of::<f32>();
        let (mut block, last) = (first / blocks.elements(), end.div_ceil(blocks.elements()));
        let most = (last - block).min(WINDOW / blocks.bytes());
        let mut bytes = vec![0; blocks.bytes() * most];
        let mut values = vec![0.0; blocks.elements() * most];
        while block < last {
            let count = (last - block).min(most);
            let bytes = &mut bytes[..blocks.bytes() * count];
            let values = &mut values[..blocks.elements() * count];
            let offset = start + (block * blocks.bytes()) as u64;
            self.content.read_at(offset, bytes).map_err(io)?;
            blocks.decode(bytes, values)?;
            let begin = block * blocks.elements();
            let (from, until) = (first.max(begin), end.min(begin + values.len()));
            let wanted = &values[from - begin..until - begin];
            let to = &mut to[4 * (from - first)..4 * (until - first)];
            for (to, value) in to.chunks_exact_mut(4).zip(wanted) {
                to.copy_from_slice(&value.to_le_bytes());
            }
            block += count;
        }
        Ok(())
    }
}
