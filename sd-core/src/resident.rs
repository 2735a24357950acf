use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::Result;

/// Bytes of weights, by how they are held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WeightBytes {
    /// As tensors of the device.
    pub plain: u64,
    /// Laid out for the CPU kernels.
    pub packed: u64,
}

impl WeightBytes {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.plain + self.packed
    }
}

/// The memory side of a component: what it holds, and whether it can do without.
///
/// A component that is always there implements [`weights`](Self::weights) alone.
pub trait Resident: Send + Sync {
    /// The weights it holds now.
    fn weights(&self) -> WeightBytes;

    /// The time that loading them took, each time they were loaded. The default is none.
    fn load_time(&self) -> Duration {
        Duration::ZERO
    }

    /// Loads what is not loaded, and keeps it loaded as long as the result lives. The default
    /// does nothing.
    ///
    /// # Errors
    /// Those of loading.
    fn hold(&self) -> Result<Held> {
        Ok(Held::default())
    }

    /// Lets go of what can be loaded again; its memory is free once nobody holds it any more. The
    /// default does nothing.
    fn release(&self) {}
}

/// Keeps a component loaded.
#[derive(Clone, Default)]
#[must_use = "what nobody holds may be released"]
pub struct Held(Option<Arc<dyn Any + Send + Sync>>);

impl Held {
    /// Holds `component`.
    pub fn new(component: Arc<dyn Any + Send + Sync>) -> Self {
        Self(Some(component))
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Held").field(&self.0.is_some()).finish()
    }
}
