//! Tensors of a checkpoint with changes merged in while they are read.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use burn::tensor::{DType, Device};
use half::{bf16, f16};

use super::change::Change;
use super::grammar::Target;
use super::module::Module;
use crate::Result;
use crate::layers::AnySide;
use crate::weights::{Stored, TensorInfo, TensorSource};

/// One tensor of a checkpoint with one change of an adapter.
///
/// Rows of the original are read and changed as they are asked for. What takes longer is kept in the
/// adapter's file, of the last module that was asked for: its change, and where a row's change
/// depends on other rows, the whole of the changed tensor.
pub(super) struct Merged {
    original: Stored,
    info: [TensorInfo; 1],
    adapter: Arc<Reader>,
    module: usize,
    is_bias: bool,
    strength: f32,
    /// All of it, as long as the [`Reader`] keeps that.
    whole: Mutex<Weak<Vec<f32>>>,
}

/// A file of changes, with what was read last of it.
pub(super) struct Reader {
    pub(super) source: Arc<dyn TensorSource>,
    pub(super) modules: Vec<Module>,
    last: Mutex<Option<Last>>,
    /// What was made of modules for the layers of a network.
    pub(super) sides: Mutex<Sides>,
}

/// What was made of modules for a network, by both; with the device and the number type it is for.
pub(super) type Sides = HashMap<(usize, Target), (Device, DType, AnySide)>;

/// Change of one module, and the tensor that it was made on if that was changed as a whole.
struct Last {
    key: Key,
    change: Arc<Change>,
    whole: Option<Arc<Vec<f32>>>,
}

/// Module and tensor of a change.
type Key = (usize, bool, Vec<usize>);

impl Reader {
    pub(super) fn new(source: Arc<dyn TensorSource>, modules: Vec<Module>) -> Self {
        Self {
            source,
            modules,
            last: Mutex::new(None),
            sides: Mutex::default(),
        }
    }

    fn change(&self, module: usize, is_bias: bool, shape: &[usize]) -> Result<Arc<Change>> {
        let key = (module, is_bias, shape.to_vec());
        // Held while it reads: others want the same.
        let mut last = self.last();
        if let Some(last) = &*last
            && last.key == key
        {
            return Ok(last.change.clone());
        }
        // One at a time is in memory.
        *last = None;
        let module = &self.modules[module];
        let change = Arc::new(match is_bias {
            true => Change::read_bias(module, &*self.source)?,
            false => Change::read(module, &*self.source, shape)?,
        });
        *last = Some(Last {
            key,
            change: change.clone(),
            whole: None,
        });
        Ok(change)
    }

    /// Keeps `whole` as long as `change` is the last one.
    fn keep(&self, change: &Arc<Change>, whole: &Arc<Vec<f32>>) {
        let mut last = self.last();
        let last = last.as_mut();
        if let Some(last) = last.filter(|last| Arc::ptr_eq(&last.change, change)) {
            last.whole = Some(whole.clone());
        }
    }

    fn last(&self) -> MutexGuard<'_, Option<Last>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Merged {
    /// `keeps` says that the sum is rounded to the checkpoint's precision, as trainers' tools do;
    /// else it stays in f32. Of several adapters each is rounded so.
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
    fn whole(&self, change: &Arc<Change>) -> Result<Arc<Vec<f32>>> {
        let mut own = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(whole) = own.upgrade() {
            return Ok(whole);
        }
        let whole = Arc::new(self.changed(change, 0..self.info[0].shape[0])?);
        *own = Arc::downgrade(&whole);
        self.adapter.keep(change, &whole);
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
        let (some, whole);
        let new = match change.by_rows() {
            true => {
                some = self.changed(&change, rows.clone())?;
                &some[first - rows.start * width..last - rows.start * width]
            }
            false => {
                whole = self.whole(&change)?;
                &whole[first..last]
            }
        };
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
