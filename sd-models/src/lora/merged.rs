//! Tensors of a checkpoint with changes merged in while they are read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use burn::tensor::DType;
use half::{bf16, f16};

use super::change::{Change, Module};
use crate::Result;
use crate::weights::{Stored, TensorInfo, TensorSource};

/// One tensor of a checkpoint with one change of an adapter.
///
/// Nothing of either is kept: rows of the original are read and changed as they are asked for. The
/// change is read from its file once for all rows of the tensor that is loaded just now, and where
/// a row's change depends on others, all of them are changed once and lie there as long.
pub(super) struct Merged {
    original: Stored,
    info: [TensorInfo; 1],
    adapter: Arc<Reader>,
    module: usize,
    is_bias: bool,
    strength: f32,
    /// All of it, while [`Reader::whole`] keeps that.
    whole: Mutex<Weak<Vec<f32>>>,
}

/// A file of changes, with the change that was read last.
pub(super) struct Reader {
    pub(super) source: Arc<dyn TensorSource>,
    pub(super) modules: Vec<Module>,
    last: Mutex<Option<(Key, Arc<Change>)>>,
    /// The tensor that was changed last as a whole.
    whole: Mutex<Option<Arc<Vec<f32>>>>,
}

/// Module and tensor of a change.
type Key = (usize, bool, Vec<usize>);

impl Reader {
    pub(super) fn new(source: Arc<dyn TensorSource>, modules: Vec<Module>) -> Self {
        Self {
            source,
            modules,
            last: Mutex::new(None),
            whole: Mutex::new(None),
        }
    }

    fn change(&self, module: usize, is_bias: bool, shape: &[usize]) -> Result<Arc<Change>> {
        let key = (module, is_bias, shape.to_vec());
        // Held while it reads: others want the same.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((found, change)) = &*last
            && *found == key
        {
            return Ok(change.clone());
        }
        // One at a time is in memory.
        *last = None;
        let module = &self.modules[module];
        let change = Arc::new(match is_bias {
            true => module.read_bias(&*self.source)?,
            false => module.read(&*self.source, shape)?,
        });
        *last = Some((key, change.clone()));
        Ok(change)
    }
}

impl Merged {
    /// `keeps` says that sums are rounded to the checkpoint's precision, once, as trainers' tools do;
    /// else they stay in f32.
    pub(super) fn new(
        original: Stored,
        keeps: bool,
        adapter: Arc<Reader>,
        (module, is_bias): (usize, bool),
        strength: f32,
    ) -> Result<Self> {
        let stored = original.check_floats()?;
        let dtype = match stored {
            DType::F16 | DType::BF16 if keeps => stored,
            _ => DType::F32,
        };
        let info = TensorInfo {
            name: original.info().name.clone(),
            shape: original.shape.clone(),
            stored: original.info().stored,
            dtype: Some(dtype),
        };
        Ok(Self {
            original,
            info: [info],
            adapter,
            module,
            is_bias,
            strength,
            whole: Mutex::default(),
        })
    }

    fn changed(&self, change: &Change, rows: Range<usize>) -> Result<Vec<f32>> {
        let shape = &self.info[0].shape;
        let width = shape.iter().skip(1).product::<usize>().max(1);
        let old = self.original.f32s(rows.start * width, rows.len() * width)?;
        Ok(change.changed(shape, rows, self.strength, old))
    }

    /// All of the tensor, changed once for all threads that load rows of it.
    fn whole(&self, change: &Change) -> Result<Arc<Vec<f32>>> {
        let mut own = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(whole) = own.upgrade() {
            return Ok(whole);
        }
        let whole = Arc::new(self.changed(change, 0..self.info[0].shape[0])?);
        *own = Arc::downgrade(&whole);
        let mut last = (self.adapter.whole.lock()).unwrap_or_else(PoisonError::into_inner);
        *last = Some(whole.clone());
        Ok(whole)
    }

    /// The tensor as a checkpoint's.
    pub(super) fn stored(self) -> Stored {
        Stored {
            shape: self.info[0].shape.clone(),
            dtype: self.info[0].dtype,
            source: Arc::new(self),
            index: 0,
        }
    }
}

impl TensorSource for Merged {
    fn path(&self) -> &Path {
        self.original.path()
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.info
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        const NONE: &BTreeMap<String, String> = &BTreeMap::new();
        NONE
    }

    fn read(&self, _tensor: usize, first: usize, to: &mut [u8]) -> Result<()> {
        let shape = &self.info[0].shape;
        let width = shape.iter().skip(1).product::<usize>().max(1);
        let size = self.info[0].dtype.map_or(4, |dtype| dtype.size());
        let last = first + to.len() / size;
        let rows = first / width..last.div_ceil(width);
        let change = self.adapter.change(self.module, self.is_bias, shape)?;
        let new = match change.by_rows() {
            true => self.changed(&change, rows.clone())?,
            false => self.whole(&change)?[rows.start * width..rows.end * width].to_vec(),
        };
        let new = &new[first - rows.start * width..last - rows.start * width];
        match self.info[0].dtype {
            Some(DType::F16) => put(to, new, |x| f16::from_f32(x).to_le_bytes()),
            Some(DType::BF16) => put(to, new, |x| bf16::from_f32(x).to_le_bytes()),
            _ => put(to, new, f32::to_le_bytes),
        }
        Ok(())
    }
}

fn put<const N: usize>(to: &mut [u8], values: &[f32], bytes: impl Fn(f32) -> [u8; N]) {
    for (to, value) in to.chunks_exact_mut(N).zip(values) {
        to.copy_from_slice(&bytes(*value));
    }
}
