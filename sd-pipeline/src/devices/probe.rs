//! First use of a device, and waiting for what it was given to do.

use burn::tensor::{DType, Device, Tensor};
use sd_core::{Error, Result};

use crate::DevicePool;
use crate::guard::guard;

/// Uses `device` once: several of Burn's constructors do not fail, the first use does.
pub(super) fn probe(device: &Device) -> Result<()> {
    guard("its first use", || {
        let one = Tensor::<1>::ones([1], (device, DType::F32)).add_scalar(1.0f32);
        let two = one.try_into_scalar::<f32>();
        match two.map_err(|e| Error::backend("its first use", e))? {
            2.0 => Ok(()),
            other => {
                let found = format!("1 + 1 gave {other}");
                Err(Error::backend("its first use", found))
            }
        }
    })
}

/// Waits until `device` has done its work.
pub(crate) fn wait(device: &Device) -> Result<()> {
    guard("waiting for the device", || {
        let done = device.sync();
        done.map_err(|e| Error::backend("waiting for the device", e))
    })
}

/// The memory of `device` as its backend counts it; `None` where it does not, or cannot be asked.
pub(crate) fn pool(device: &Device) -> Option<DevicePool> {
    let usage: Result<_> = guard("asking for the device's memory", || {
        Ok(device.memory_pool_usage())
    });
    let usage = usage.ok()??;
    Some(DevicePool {
        in_use: usage.bytes_in_use,
        reserved: usage.bytes_reserved,
    })
}

/// Has `device` give back memory that it keeps to be used again, where its backend keeps some. That
/// it fails is no reason to: the memory is then still there.
pub(crate) fn clean_up(device: &Device) {
    // What was given to it to do may still need some.
    let done = wait(device).and_then(|()| {
        guard("giving back the device's memory", || {
            device.memory_cleanup();
            Ok::<(), Error>(())
        })
    });
    if let Err(error) = done {
        tracing::warn!("the device keeps its memory: {error}");
    }
}
