//! Memory for the outputs of layers, used again from layer to layer.
//!
//! A large vector is mapped by the system when it is made and given back when it is dropped; in
//! between the system fills every page with zeros at its first use. For the autoencoder's pictures
//! that takes longer than normalising them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::attention::{self, AttentionShape};
use crate::conv::{ConvShape, PackedConv, Picture};
use crate::gemm::BLOCK;

/// Memory kept for outputs to come.
static FREE: Mutex<Pool<Vec<f32>>> = Mutex::new(Pool::new());

/// Fewer numbers are left to the allocator, which is quick with them.
const LEAST: usize = 1 << 16;

/// No more numbers are kept than these, 288 MiB: two maps of 512 × 512 pixels and 128 channels, and
/// what is smaller.
const MOST: usize = 72 << 20;

/// Memory for numbers.
trait Memory {
    /// The most numbers it holds.
    fn capacity(&self) -> usize;
}

impl Memory for Vec<f32> {
    fn capacity(&self) -> usize {
        self.capacity()
    }
}

/// Memory that is kept, that which has waited longest first.
#[derive(Debug, Clone)]
struct Pool<M>(Vec<M>);

impl<M> Default for Pool<M> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<M: Memory> Pool<M> {
    const fn new() -> Self {
        Self(Vec::new())
    }

    /// The smallest that holds `len` numbers, if it is not much too large.
    fn take(&mut self, len: usize) -> Option<M> {
        if len < LEAST {
            return None;
        }
        let fits = |x: &M| x.capacity() >= len && x.capacity() / 2 <= len;
        let fitting = self.0.iter().enumerate().filter(|(_, x)| fits(x));
        let (index, _) = fitting.min_by_key(|(_, x)| x.capacity())?;
        Some(self.0.remove(index))
    }

    /// Keeps `memory`, for which what has been kept longest makes room.
    fn keep(&mut self, memory: M) {
        let size = memory.capacity();
        if !(LEAST..=MOST).contains(&size) {
            return;
        }
        while self.size() + size > MOST {
            self.0.remove(0);
        }
        self.0.push(memory);
    }

    /// Numbers that all of it holds.
    fn size(&self) -> usize {
        self.0.iter().map(Memory::capacity).sum()
    }
}

fn free() -> MutexGuard<'static, Pool<Vec<f32>>> {
    // A panic elsewhere leaves nothing half done here.
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `len` numbers of any value, for a layer to write its output to.
pub fn take_output(len: usize) -> Vec<f32> {
    // The lock is not held while memory is filled.
    let kept = free().take(len);
    if let Some(mut output) = kept {
        output.resize(len, 0.0);
        return output;
    }
    let mut output = vec![0.0; len];
    use_large_pages(&mut output);
    output
}

/// Keeps the memory of an output that has been read, for [`take_output`]. What has been kept
/// longest makes room for it.
pub fn recycle_output(output: Vec<f32>) {
    free().keep(output);
}

/// Bytes of the memory that is kept.
pub fn kept_output_bytes() -> usize {
    free().size() * size_of::<f32>()
}

/// Returns the memory of all outputs kept to the system.
pub fn release_outputs() {
    std::mem::take(&mut *free());
}

/// Outputs replayed by their sizes alone: the memory that layers will take, without any of it.
#[derive(Debug, Clone)]
pub struct OutputReplay {
    /// `None`: nothing is kept.
    kept: Option<Pool<Replayed>>,
    /// Numbers of the outputs that are there.
    live: usize,
    peak: usize,
    /// The most numbers of scratch memory: of all threads together, and of each.
    scratch: [usize; 2],
}

/// An output of an [`OutputReplay`]: the numbers that its memory holds.
#[derive(Debug, Clone)]
#[must_use]
pub struct Replayed(usize);

impl Memory for Replayed {
    fn capacity(&self) -> usize {
        self.0
    }
}

impl OutputReplay {
    /// Outputs of which memory is kept for later ones, as here, or is not, as by a backend.
    pub fn new(keeps: bool) -> Self {
        Self {
            kept: keeps.then(Pool::new),
            live: 0,
            peak: 0,
            scratch: [0; 2],
        }
    }

    /// As [`take_output`].
    pub fn take(&mut self, len: usize) -> Replayed {
        let kept = self.kept.as_mut().and_then(|kept| kept.take(len));
        let output = kept.unwrap_or(Replayed(len));
        self.live += output.0;
        self.peak = self.peak.max(self.live + self.kept());
        output
    }

    /// Drops an output that no kernel has read to its end.
    pub fn free(&mut self, output: Replayed) {
        self.live -= output.0;
    }

    /// A convolution, which takes scratch memory.
    pub fn convolve(&mut self, shape: ConvShape, picture: Picture) {
        if self.kept.is_some() {
            let threads = rayon::current_num_threads();
            self.takes(PackedConv::scratch(shape, picture, threads));
        }
    }

    /// An attention, likewise.
    pub fn attend(&mut self, shape: &AttentionShape) {
        if self.kept.is_some() {
            self.takes([attention::scratch(shape), BLOCK]);
        }
    }

    fn takes(&mut self, scratch: [usize; 2]) {
        for (most, scratch) in self.scratch.iter_mut().zip(scratch) {
            *most = (*most).max(scratch);
        }
    }

    /// As [`recycle_output`].
    pub fn recycle(&mut self, output: Replayed) {
        self.live -= output.0;
        if let Some(kept) = &mut self.kept {
            kept.keep(output);
        }
    }

    /// As [`release_outputs`].
    pub fn release(&mut self) {
        if let Some(kept) = &mut self.kept {
            *kept = Pool::new();
        }
    }

    /// The most numbers that there were at once since this was last asked, those kept for later and
    /// the threads' scratch memory among them.
    pub fn take_peak(&mut self) -> usize {
        let [all, each] = self.scratch;
        let now = self.live + self.kept();
        let peak = std::mem::replace(&mut self.peak, now);
        peak + all + each * rayon::current_num_threads()
    }

    /// Numbers of the memory that is kept.
    fn kept(&self) -> usize {
        self.kept.as_ref().map_or(0, Pool::size)
    }
}

/// Asks the system for pages of 2 MiB where it has them: fewer faults when the memory is first
/// written, and fewer walks through the page tables later.
///
/// memmap2 gives this advice for its own maps only, and an output is a `Vec`: that is what Burn
/// takes over without a copy.
fn use_large_pages(memory: &mut [f32]) {
    #[cfg(target_os = "linux")]
    if size_of_val(memory) >= 4 << 20 {
        const PAGE: usize = 4096;
        let first = memory.as_mut_ptr().cast::<u8>();
        let skip = first.align_offset(PAGE);
        let len = size_of_val(memory) - skip;
        // SAFETY: whole pages inside `memory`, whose contents this advice does not change. Where it
        // is refused nothing is lost.
        unsafe {
            libc::madvise(
                first.add(skip).cast(),
                len / PAGE * PAGE,
                libc::MADV_HUGEPAGE,
            )
        };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, as the memory kept is the whole process's.
    #[test]
    fn outputs_are_used_again_and_bounded() {
        let first = take_output(LEAST + 5);
        assert_eq!(first.len(), LEAST + 5);
        let place = first.as_ptr();
        recycle_output(first);
        let smaller = take_output(LEAST);
        assert_eq!((smaller.len(), smaller.as_ptr()), (LEAST, place));
        recycle_output(smaller);
        // Memory of more than twice the size is not taken.
        recycle_output(vec![1.0; 4 * LEAST]);
        let (a, b) = (take_output(LEAST), take_output(LEAST));
        assert_eq!(a.as_ptr(), place);
        assert!(b.capacity() < 4 * LEAST);

        for _ in 0..3 {
            recycle_output(Vec::with_capacity(MOST / 2));
        }
        let kept = free().size();
        assert!(kept <= MOST, "{kept} numbers are kept");
        recycle_output(Vec::with_capacity(MOST + 1));
        recycle_output(vec![0.0; LEAST - 1]);
        assert!(
            free()
                .0
                .iter()
                .all(|x| (LEAST..=MOST).contains(&x.capacity()))
        );
        release_outputs();
        assert!(free().0.is_empty());
    }
}
