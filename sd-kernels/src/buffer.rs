//! Memory for packed operands and for what a task needs while it runs.

use std::cell::RefCell;

use crate::error::{Error, Result};

/// A cache line: what makes a `Vec` aligned to 64 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// f32 in a cache line.
pub(crate) const LINE: usize = 16;

/// f32 memory that starts at a cache line.
#[derive(Clone, Default)]
pub(crate) struct Buffer(Vec<Line>);

/// Its size: a layer's numbers would fill a book.
impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes())
    }
}

impl Buffer {
    /// At least `len` zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self(vec![Line([0.0; LINE]); len.div_ceil(LINE)])
    }

    /// Zeros of at least so many bytes.
    ///
    /// # Errors
    /// Where the system has not so much memory.
    pub(crate) fn try_zeroed(bytes: usize) -> Result<Self> {
        let lines = bytes.div_ceil(size_of::<Line>());
        // A failing allocation must not end the program; asking first leaves `vec!` its way of
        // getting zeros from the system without writing them.
        if Vec::<Line>::new().try_reserve_exact(lines).is_err() {
            return Err(Error::OutOfMemory { bytes });
        }
        Ok(Self(vec![Line([0.0; LINE]); lines]))
    }

    pub(crate) fn as_ptr(&self) -> *const f32 {
        self.0.as_ptr().cast()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.0.as_mut_ptr().cast()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.len() * size_of::<Line>()
    }

    fn grow(&mut self, len: usize) {
        let lines = len.div_ceil(LINE);
        if self.0.len() < lines {
            *self = Self::zeroed(len);
        }
        debug_assert!(self.0.len() >= lines);
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with at least `len` f32 of this thread's own, holding whatever they held before.
///
/// The memory stays with the thread: taking it from the system anew for every layer costs a page
/// fault per 4 KiB, more than the transforms that use it. Uses may nest.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(*mut f32) -> R) -> R {
    let mut buffer = SCRATCH
        .with(|free| free.borrow_mut().pop())
        .unwrap_or_default();
    buffer.grow(len);
    let result = f(buffer.as_mut_ptr());
    SCRATCH.with(|free| free.borrow_mut().push(buffer));
    result
}

/// Returns this thread's kept scratch memory to the system.
pub fn release_scratch() {
    SCRATCH.with(|free| free.borrow_mut().clear());
}

/// A pointer that tasks writing disjoint parts may share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared(pub(crate) *mut f32);

// SAFETY: each use writes a part of its own; see the callers.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// A method, so that closures capture the wrapper and not the bare pointer.
    #[inline(always)]
    pub(crate) fn get(self) -> *mut f32 {
        self.0
    }
}
