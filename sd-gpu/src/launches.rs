use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cubecl::logging::{LaunchObservation, LaunchObserver};

/// A count of the kernels that are launched, on any device, while it lives.
pub struct Launches {
    counts: Arc<Counts>,
    _watching: LaunchObservation,
}

#[derive(Default)]
struct Counts(Mutex<BTreeMap<&'static str, usize>>);

impl LaunchObserver for Counts {
    fn launched(&self, kernel: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(kernel).or_default() += 1;
    }
}

impl Launches {
    /// A count that begins now.
    #[expect(clippy::new_without_default, reason = "to begin is no default value")]
    pub fn new() -> Self {
        let counts = Arc::new(Counts::default());
        Self {
            _watching: LaunchObservation::new(counts.clone()),
            counts,
        }
    }

    /// Launches until now, of each kernel by its name.
    pub fn by_kernel(&self) -> BTreeMap<&'static str, usize> {
        let counts = self.counts.0.lock();
        counts.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All launches until now.
    pub fn all(&self) -> usize {
        self.by_kernel().values().sum()
    }
}
