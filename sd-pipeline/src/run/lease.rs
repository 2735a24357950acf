use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::Tensor;
use sd_core::{Cancel, Conditioning, Denoiser, Network, Result, SavedState, TiledDenoiser, Tiles};

use crate::Slot;
use crate::finite::Witness;
use crate::guard::guard;

/// A run's lease on the denoiser: the network with the run's conditioning, prepared when it is
/// needed, which keeps the weights loaded as long as it is there.
pub(super) struct Lease {
    denoiser: Slot<dyn Denoiser>,
    tiles: Option<Tiles>,
    branches: Vec<Conditioning>,
    network: Mutex<Option<Box<dyn Network>>>,
    witnesses: Mutex<Vec<Witness>>,
}

impl Lease {
    /// A lease on `denoiser`, seen through `tiles` where there are some, for `branches`, taken at
    /// once.
    pub(super) fn new(
        denoiser: Slot<dyn Denoiser>,
        tiles: Option<Tiles>,
        branches: Vec<Conditioning>,
    ) -> crate::Result<Self> {
        let lease = Self {
            denoiser,
            tiles,
            branches,
            network: Mutex::new(None),
            witnesses: Mutex::new(Vec::new()),
        };
        lease.take()?;
        Ok(lease)
    }

    /// Takes the lease if it was given back.
    pub(super) fn take(&self) -> crate::Result<()> {
        let mut network = self.network();
        if network.is_none() {
            let denoiser = self.denoiser.get()?;
            let denoiser = match self.tiles {
                Some(tiles) => Arc::new(TiledDenoiser::new(denoiser, tiles)?),
                None => denoiser,
            };
            let branches = self.branches.clone();
            *network = Some(guard("the denoiser", || denoiser.prepare(branches))?);
        }
        Ok(())
    }

    /// Gives the lease back until it is taken again.
    pub(super) fn give_back(&self) {
        let network = self.network().take();
        // Freed without the lock.
        drop(network);
    }

    /// Witnesses to the network's outputs since it was last asked for them.
    pub(super) fn witnesses(&self) -> Vec<Witness> {
        std::mem::take(&mut *lock(&self.witnesses))
    }

    fn network(&self) -> MutexGuard<'_, Option<Box<dyn Network>>> {
        lock(&self.network)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The leased network; a backend's panic in it is an error.
impl Network for Lease {
    fn predict(
        &self,
        x: &Tensor<4>,
        t: f64,
        branches: &[usize],
        cancel: &Cancel,
    ) -> Result<Vec<Tensor<4>>> {
        let network = self.network();
        match &*network {
            Some(network) => guard("the denoiser", || {
                let outputs = network.predict(x, t, branches, cancel)?;
                lock(&self.witnesses).extend(outputs.iter().map(Witness::of));
                Ok(outputs)
            }),
            None => Err(sd_core::Error::Unsupported(
                "the denoiser is asked outside of a step".into(),
            )),
        }
    }

    fn save(&self) -> SavedState {
        let network = self.network();
        network
            .as_ref()
            .map_or_else(SavedState::default, |network| network.save())
    }

    fn restore(&self, state: &SavedState) -> Result<()> {
        let network = self.network();
        network
            .as_ref()
            .map_or(Ok(()), |network| network.restore(state))
    }
}
