//! What devices opened here can give out at most.

use burn::tensor::Device;

/// The largest single buffer, in bytes, that `device` can work on; `None` where only its memory
/// limits it, and for devices that were not opened by this crate.
///
/// GPUs that wgpu reaches have such a limit, often 128 MiB to 2 GiB: less than one picture inside
/// the autoencoder. [`Pipeline::open`](crate::Pipeline::open) hands it to the autoencoder, which
/// cuts larger pictures.
pub fn largest_buffer(device: &Device) -> Option<u64> {
    #[cfg(feature = "wgpu")]
    return wgpu::largest(device);
    #[cfg(not(feature = "wgpu"))]
    {
        let _ = device;
        None
    }
}

/// Whether the backend compiles and tunes kernels when they are first used.
pub(crate) fn compiles_kernels(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    if *device == Device::flex() {
        return false;
    }
    #[cfg(feature = "ndarray")]
    #[allow(deprecated, reason = "deprecated upstream, still supported here")]
    if *device == Device::ndarray() {
        return false;
    }
    let _ = device;
    true
}

#[cfg(feature = "wgpu")]
pub(super) mod wgpu {
    use std::sync::{Mutex, PoisonError};

    use burn::tensor::Device;
    use burn::tensor::wgpu::wgpu;

    static KNOWN: Mutex<Vec<(Device, u64)>> = Mutex::new(Vec::new());

    /// The largest buffer that a kernel can be given whole.
    pub(in crate::device) fn of(device: &wgpu::Device) -> u64 {
        let limits = device.limits();
        (limits.max_buffer_size).min(limits.max_storage_buffer_binding_size)
    }

    /// Keeps what is known of `device`.
    pub(in crate::device) fn remember(device: &Device, largest: u64) {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.push((device.clone(), largest));
    }

    pub(super) fn largest(device: &Device) -> Option<u64> {
        let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|(opened, _)| opened == device);
        found.map(|(_, largest)| *largest)
    }
}
