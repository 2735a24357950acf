//! Tensors of several files as those of one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sd_kernels::Blocks;

use super::source::{TensorInfo, TensorSource};
use crate::Result;

/// The tensors of two files, one after the other. Path and notes are the first's.
pub(crate) struct Joined {
    sources: [Arc<dyn TensorSource>; 2],
    tensors: Vec<TensorInfo>,
}

impl Joined {
    pub(crate) fn new(sources: [Arc<dyn TensorSource>; 2]) -> Self {
        let all = sources.iter().flat_map(|source| source.tensors());
        Self {
            tensors: all.cloned().collect(),
            sources,
        }
    }

    /// The file that a tensor is in, and its number there.
    fn place(&self, tensor: usize) -> (&dyn TensorSource, usize) {
        let [one, two] = &self.sources;
        match tensor.checked_sub(one.tensors().len()) {
            None => (&**one, tensor),
            Some(tensor) => (&**two, tensor),
        }
    }
}

impl TensorSource for Joined {
    fn path(&self) -> &Path {
        self.sources[0].path()
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        self.sources[0].metadata()
    }

    fn read(&self, tensor: usize, first: usize, to: &mut [u8]) -> Result<()> {
        let (source, tensor) = self.place(tensor);
        source.read(tensor, first, to)
    }

    fn blocks(&self, tensor: usize) -> Option<Blocks> {
        let (source, tensor) = self.place(tensor);
        source.blocks(tensor)
    }

    fn read_blocks(&self, tensor: usize, first: usize, to: &mut [u8]) -> Result<()> {
        let (source, tensor) = self.place(tensor);
        source.read_blocks(tensor, first, to)
    }
}
