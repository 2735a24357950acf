//! Tensors of a file under other names: one component of a single file by diffusers' names.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sd_kernels::Blocks;

use super::source::{TensorInfo, TensorSource};
use crate::Result;
use crate::ldm::Storage;

/// Some of a file's tensors, each by another name and as it is stored in the file: whole, as a part
/// of one, or transposed.
///
/// Values go through as they are read, a few at a time; none are kept.
pub struct Renamed {
    source: Arc<dyn TensorSource>,
    tensors: Vec<TensorInfo>,
    /// For each the number of the file's tensor, and how that holds it.
    places: Vec<(usize, Storage)>,
}

impl Renamed {
    /// Tensors of `source`: for each the number of the source's tensor, the name it gets, and the
    /// form in which the source holds it. A form that its shape does not allow leaves the shape as
    /// it is, which fits no network's.
    pub fn new(
        source: Arc<dyn TensorSource>,
        names: impl IntoIterator<Item = (usize, String, Storage)>,
    ) -> Self {
        let (mut tensors, mut places) = (Vec::new(), Vec::new());
        for (index, name, storage) in names {
            let Some(info) = source.tensors().get(index) else {
                continue;
            };
            let (shape, storage) = match storage.shape(&info.shape) {
                Some(shape) => (shape, storage),
                None => (info.shape.clone(), Storage::Whole),
            };
            tensors.push(TensorInfo {
                name,
                shape,
                ..info.clone()
            });
            places.push((index, storage));
        }
        Self {
            source,
            tensors,
            places,
        }
    }

    /// Values of a matrix that the file has as `[rows, columns]` and that is read as
    /// `[columns, rows]`.
    fn read_transposed(&self, index: usize, first: usize, to: &mut [u8]) -> Result<()> {
        let info = &self.source.tensors()[index];
        let ([rows, columns], Some(dtype)) =
            (info.shape[..].try_into().unwrap_or([0; 2]), info.dtype)
        else {
            return self.source.read(index, first, to);
        };
        let size = dtype.size();
        let end = first + to.len() / size;
        if first == end || rows == 0 {
            return Ok(());
        }
        // The file's columns that are wanted, some of each of its rows.
        let (from, until) = (first / rows, end.div_ceil(rows));
        let mut part = vec![0; (until - from) * size];
        for row in 0..rows {
            self.source.read(index, row * columns + from, &mut part)?;
            for (column, value) in (from..).zip(part.chunks_exact(size)) {
                let at = (column * rows + row).checked_sub(first);
                if let Some(to) = at.and_then(|at| to.get_mut(at * size..(at + 1) * size)) {
                    to.copy_from_slice(value);
                }
            }
        }
        Ok(())
    }
}

impl TensorSource for Renamed {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        self.source.metadata()
    }

    fn read(&self, tensor: usize, first: usize, to: &mut [u8]) -> Result<()> {
        let (index, storage) = self.places[tensor];
        match storage {
            Storage::Whole | Storage::Pointwise => self.source.read(index, first, to),
            Storage::Rows { part, .. } => {
                let before: usize = self.tensors[tensor].shape.iter().product();
                self.source.read(index, part * before + first, to)
            }
            Storage::Transposed => self.read_transposed(index, first, to),
        }
    }

    fn blocks(&self, tensor: usize) -> Option<Blocks> {
        let (index, storage) = self.places[tensor];
        let blocks = self.source.blocks(index)?;
        match storage {
            Storage::Whole | Storage::Pointwise => Some(blocks),
            // Where a part begins, a block does.
            Storage::Rows { .. } => {
                let size: usize = self.tensors[tensor].shape.iter().product();
                size.is_multiple_of(blocks.elements()).then_some(blocks)
            }
            Storage::Transposed => None,
        }
    }

    fn read_blocks(&self, tensor: usize, first: usize, to: &mut [u8]) -> Result<()> {
        let (index, storage) = self.places[tensor];
        let before = match (storage, self.source.blocks(index)) {
            (Storage::Rows { part, .. }, Some(blocks)) => {
                part * self.tensors[tensor].shape.iter().product::<usize>() / blocks.elements()
            }
            _ => 0,
        };
        self.source.read_blocks(index, before + first, to)
    }
}
