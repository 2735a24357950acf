//! Memory that this process occupies.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Bytes of memory that this process occupies now; `None` where the system does not tell (Linux,
/// macOS, Windows and FreeBSD do).
pub fn resident_bytes() -> Option<u64> {
    let stats = memory_stats::memory_stats()?;
    Some(stats.physical_mem as u64)
}

/// Bytes among these that the CPU kernels keep to be used again.
pub fn kept_bytes() -> u64 {
    (sd_kernels::kept_output_bytes() + sd_kernels::scratch_bytes()) as u64
}

/// The peaks that are still watched.
static WATCHES: Mutex<Vec<Weak<AtomicU64>>> = Mutex::new(Vec::new());
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The most memory this process occupies while this lives: the whole process, whoever else computes
/// in it. Sampled when it begins and is read, and behind every CPU kernel, because no system tells
/// the peak of a part of a process's life.
#[derive(Debug)]
pub struct PeakMemory(Arc<AtomicU64>);

impl PeakMemory {
    /// Begins now.
    pub fn start() -> Self {
        let watch = Arc::new(AtomicU64::new(0));
        let mut watches = WATCHES.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|watch| watch.strong_count() > 0);
        watches.push(Arc::downgrade(&watch));
        COUNT.store(watches.len(), Ordering::Relaxed);
        drop(watches);
        sample();
        Self(watch)
    }

    /// The most bytes so far; `None` where the system does not tell.
    pub fn peak(&self) -> Option<u64> {
        sample();
        let peak = self.0.load(Ordering::Relaxed);
        (peak > 0).then_some(peak)
    }
}

impl Drop for PeakMemory {
    fn drop(&mut self) {
        let mut watches = WATCHES.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|watch| !std::ptr::eq(watch.as_ptr(), Arc::as_ptr(&self.0)));
        COUNT.store(watches.len(), Ordering::Relaxed);
    }
}

/// A sample for every [`PeakMemory`]: a microsecond, and next to nothing where there is none.
pub(crate) fn sample() {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return;
    }
    let Some(bytes) = resident_bytes() else {
        return;
    };
    let watches = WATCHES.lock().unwrap_or_else(PoisonError::into_inner);
    for watch in watches.iter().filter_map(Weak::upgrade) {
        watch.fetch_max(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_watch_sees_memory_that_came_and_went() {
        let before = resident_bytes().unwrap();
        let watch = PeakMemory::start();
        let memory = vec![1u8; 64 << 20];
        sample();
        drop(memory);
        let peak = watch.peak().unwrap();
        // Other tests run in this process too, but none gives back so much.
        assert!(peak >= before + (60 << 20), "{peak} after {before}");
    }
}
