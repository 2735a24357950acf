use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

/// A run's emergency brake: any thread pulls it, the network looks at it between its blocks.
///
/// Clones are the same brake. A network that does not look finishes its evaluation first.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A brake that nobody has pulled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Pulls it: whoever [checks](Self::check) stops.
    pub fn pull(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Lets it go, and says whether it was pulled.
    pub fn release(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    /// State of the brake: `true` once it is pulled.
    pub fn is_pulled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Stops the caller when it is pulled.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn check(&self) -> Result<()> {
        if self.is_pulled() {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }
}
