//! Work on devices that is done when it is said to be.

use burn::tensor::Device;

use crate::Result;
use crate::devices;
use crate::guard::guard;

/// Runs `work`, which computes on `devices`, and waits until they have done it: what is said to be
/// done then is, and a failure shows where it happened. A server that is lost over it is an
/// [`Error::Device`](crate::Error::Device).
pub(crate) fn synchronized<T>(
    devices: &[&Device],
    during: &'static str,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    #[cfg(feature = "remote")]
    let _pending = devices::remote::PendingCalls::of(devices);
    let result: Result<T> = guard(during, || {
        let value = work()?;
        for device in devices {
            devices::wait(device)?;
        }
        Ok(value)
    });
    #[cfg(feature = "remote")]
    if let Err(failure) = &result {
        let failure = failure.to_string();
        let lost = |device: &&Device| devices::remote::lost(device, &failure);
        if let Some(lost) = devices.iter().find_map(lost) {
            return Err(lost.into());
        }
    }
    result
}
