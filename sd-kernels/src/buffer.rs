//! Memory for packed operands and for what a task needs while it runs.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::MmapMut;

use crate::error::{Error, Result};

/// A cache line: what makes a `Vec` aligned to 64 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// f32 in a cache line.
pub(crate) const LINE: usize = 16;

/// Buffers of so many bytes are mapped: the system has their memory back as soon as they are
/// dropped, where an allocator might keep it for later.
const MAPPED: usize = 1 << 20;

/// f32 memory that starts at a cache line.
#[derive(Default)]
pub(crate) struct Buffer(Memory);

enum Memory {
    Lines(Vec<Line>),
    Pages(MmapMut),
}

impl Default for Memory {
    fn default() -> Self {
        Self::Lines(Vec::new())
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = Self::zeroed(self.bytes() / size_of::<f32>());
        // SAFETY: both have so many bytes, of plain numbers.
        unsafe {
            std::ptr::copy_nonoverlapping(self.as_ptr(), copy.as_mut_ptr(), self.bytes() / 4);
        }
        copy
    }
}

/// Its size: a layer's numbers would fill a book.
impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes())
    }
}

impl Buffer {
    /// At least `len` zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        let lines = len.div_ceil(LINE);
        Self::mapped(lines * size_of::<Line>())
            .unwrap_or_else(|| Self(Memory::Lines(vec![Line([0.0; LINE]); lines])))
    }

    /// The size of a buffer of at least so many bytes.
    pub(crate) fn bytes_of(bytes: usize) -> usize {
        bytes.next_multiple_of(size_of::<Line>())
    }

    /// Zeros of at least so many bytes.
    ///
    /// # Errors
    /// Memory that the system does not have.
    pub(crate) fn try_zeroed(bytes: usize) -> Result<Self> {
        let lines = bytes.div_ceil(size_of::<Line>());
        if let Some(buffer) = Self::mapped(lines.saturating_mul(size_of::<Line>())) {
            return Ok(buffer);
        }
        // A failing allocation must not end the program; asking first leaves `vec!` its way of
        // getting zeros from the system without writing them.
        if Vec::<Line>::new().try_reserve_exact(lines).is_err() {
            return Err(Error::OutOfMemory { bytes });
        }
        Ok(Self(Memory::Lines(vec![Line([0.0; LINE]); lines])))
    }

    /// Pages of the system's, for large buffers and where there are such.
    fn mapped(bytes: usize) -> Option<Self> {
        let pages = (bytes >= MAPPED).then(|| MmapMut::map_anon(bytes))?.ok()?;
        // Larger pages: fewer faults when they are written, and fewer walks through the page
        // tables when a product reads them. Without them it works too.
        #[cfg(target_os = "linux")]
        let _ = pages.advise(memmap2::Advice::HugePage);
        Some(Self(Memory::Pages(pages)))
    }

    pub(crate) fn as_ptr(&self) -> *const f32 {
        match &self.0 {
            Memory::Lines(lines) => lines.as_ptr().cast(),
            Memory::Pages(pages) => pages.as_ptr().cast(),
        }
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        match &mut self.0 {
            Memory::Lines(lines) => lines.as_mut_ptr().cast(),
            Memory::Pages(pages) => pages.as_mut_ptr().cast(),
        }
    }

    /// All of it, rounded up to whole lines.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        let len = self.bytes() / size_of::<f32>();
        // SAFETY: so many plain numbers, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), len) }
    }

    pub(crate) fn bytes(&self) -> usize {
        match &self.0 {
            Memory::Lines(lines) => size_of_val(lines.as_slice()),
            Memory::Pages(pages) => pages.len(),
        }
    }

    fn grow(&mut self, len: usize) {
        if self.bytes() < len * size_of::<f32>() {
            // Not both at once.
            *self = Self::default();
            *self = Self::zeroed(len);
        }
        debug_assert!(self.bytes() >= len * size_of::<f32>());
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch(Vec::new())) };
}

/// Bytes of all threads' scratch memory.
static SCRATCH_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Scratch memory of a thread.
struct Scratch(Vec<Buffer>);

impl Drop for Scratch {
    fn drop(&mut self) {
        let bytes: usize = self.0.iter().map(Buffer::bytes).sum();
        SCRATCH_BYTES.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes of scratch memory that threads keep.
pub fn scratch_bytes() -> usize {
    SCRATCH_BYTES.load(Ordering::Relaxed)
}

/// Runs `f` with at least `len` f32 of this thread's own, holding whatever they held before.
///
/// The memory stays with the thread: taking it from the system anew for every layer costs a page
/// fault per 4 KiB, more than the transforms that use it. Uses may nest.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(*mut f32) -> R) -> R {
    let mut buffer = SCRATCH
        .with(|free| free.borrow_mut().0.pop())
        .unwrap_or_default();
    let before = buffer.bytes();
    buffer.grow(len);
    SCRATCH_BYTES.fetch_add(buffer.bytes() - before, Ordering::Relaxed);
    let result = f(buffer.as_mut_ptr());
    SCRATCH.with(|free| free.borrow_mut().0.push(buffer));
    result
}

/// Returns this thread's kept scratch memory to the system.
pub fn release_scratch() {
    // What is replaced is counted out as it is dropped.
    SCRATCH.with(|free| drop(free.replace(Scratch(Vec::new()))));
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
