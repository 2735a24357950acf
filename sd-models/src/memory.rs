//! Memory that this process occupies.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// Bytes of memory that this process occupies now; `None` where the system does not tell (it does
/// on Linux).
pub fn resident_bytes() -> Option<u64> {
    // The second number is the resident pages.
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * page_size())
}

/// The system's, as it told this process when it started it.
fn page_size() -> u64 {
    static SIZE: OnceLock<u64> = OnceLock::new();
    *SIZE.get_or_init(|| {
        // Pairs of a key and a value; getauxval(3) calls this one AT_PAGESZ.
        const PAGE_SIZE: usize = 6;
        let vector = std::fs::read("/proc/self/auxv").unwrap_or_default();
        let (words, _) = vector.as_chunks::<{ size_of::<usize>() }>();
        let words: Vec<usize> = words
            .iter()
            .map(|word| usize::from_ne_bytes(*word))
            .collect();
        let pair = words.chunks_exact(2).find(|pair| pair[0] == PAGE_SIZE);
        pair.map_or(4096, |pair| pair[1] as u64)
    })
}

/// Those who want to know of the highest value there is.
static WATCHES: Mutex<Vec<Weak<AtomicU64>>> = Mutex::new(Vec::new());
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The most memory this process occupies while the watch lives: the whole process, whoever else
/// computes in it. Looked at when the watch begins and is read, and behind every CPU kernel.
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

/// Shows all watches the memory of this moment: a microsecond, and next to nothing without watches.
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
