//! Memory for the outputs of layers, used again from layer to layer.
//!
//! A large vector is mapped by the system when it is made and given back when it is dropped; in
//! between the system fills every page with zeros at its first use. For the autoencoder's pictures
//! that takes longer than normalising them.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Numbers kept for outputs to come, those that have waited longest first.
static FREE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Fewer numbers are left to the allocator, which is quick with them.
const LEAST: usize = 1 << 16;

/// No more numbers are kept than these, 288 MiB: two maps of 512 × 512 pixels and 128 channels, and
/// what is smaller.
const MOST: usize = 72 << 20;

fn free() -> MutexGuard<'static, Vec<Vec<f32>>> {
    // A panic elsewhere leaves nothing half done here.
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `len` numbers of any value, for a layer to write its output to.
pub fn take_output(len: usize) -> Vec<f32> {
    if len >= LEAST {
        let mut free = free();
        let fits = |x: &Vec<f32>| x.capacity() >= len && x.capacity() / 2 <= len;
        let fitting = free.iter().enumerate().filter(|(_, x)| fits(x));
        if let Some((index, _)) = fitting.min_by_key(|(_, x)| x.capacity()) {
            let mut output = free.remove(index);
            drop(free);
            output.resize(len, 0.0);
            return output;
        }
    }
    let mut output = vec![0.0; len];
    use_large_pages(&mut output);
    output
}

/// Keeps the memory of an output that has been read, for [`take_output`]. What has been kept
/// longest makes room for it.
pub fn recycle_output(output: Vec<f32>) {
    let size = output.capacity();
    if !(LEAST..=MOST).contains(&size) {
        return;
    }
    let mut free = free();
    while free.iter().map(Vec::capacity).sum::<usize>() + size > MOST {
        free.remove(0);
    }
    free.push(output);
}

/// Returns the memory of all outputs kept to the system.
pub fn release_outputs() {
    std::mem::take(&mut *free());
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
        let kept: usize = free().iter().map(Vec::capacity).sum();
        assert!(kept <= MOST, "{kept} numbers are kept");
        recycle_output(Vec::with_capacity(MOST + 1));
        recycle_output(vec![0.0; LEAST - 1]);
        assert!(
            free()
                .iter()
                .all(|x| (LEAST..=MOST).contains(&x.capacity()))
        );
        release_outputs();
        assert!(free().is_empty());
    }
}
