//! What a trial says of a kernel, and how loudly.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::DType;
use sd_gpu::Unavailable;

use super::{Kernel, Place};

/// What a trial says of a kernel.
#[derive(Debug)]
pub(in crate::layers::gpu) enum Verdict {
    Right,
    /// So far off.
    Wrong(f64),
    /// The device lacks what it needs.
    Unavailable(Unavailable),
    /// It stopped the trial.
    Failed,
}

/// True where `trial` finds that `kernel` is right. That a device lacks what it needs is no reason to
/// warn.
pub(super) fn is_right(
    place: &Place<'_>,
    kernel: Kernel,
    trial: impl FnOnce() -> Result<f64, Unavailable>,
) -> bool {
    let dtype = place.dtype;
    match verdict(place, kernel, trial) {
        Verdict::Right => return true,
        Verdict::Wrong(off) => tracing::warn!(?kernel, off, ?dtype, "a kernel is wrong here"),
        Verdict::Unavailable(lack) => {
            tracing::debug!(?kernel, ?dtype, %lack, "a kernel is not available here");
        }
        Verdict::Failed => tracing::warn!(?kernel, ?dtype, "a kernel does not run here"),
    }
    false
}

/// What `trial`, which tells how far off `kernel` is, says of it.
pub(in crate::layers::gpu) fn verdict(
    place: &Place<'_>,
    kernel: Kernel,
    trial: impl FnOnce() -> Result<f64, Unavailable>,
) -> Verdict {
    let bound = match (place.dtype, kernel) {
        // On tensor cores Burn multiplies f32 as something narrower.
        (DType::F32 | DType::F16, Kernel::Product | Kernel::Attention | Kernel::Flash) => 4e-3,
        (DType::F32, _) => 2e-5,
        (DType::F16, _) => 4e-3,
        _ => 3e-2,
    };
    match catch_unwind(AssertUnwindSafe(trial)) {
        Ok(Ok(off)) if off <= bound => Verdict::Right,
        Ok(Ok(off)) => Verdict::Wrong(off),
        Ok(Err(lack)) => Verdict::Unavailable(lack),
        Err(_) => Verdict::Failed,
    }
}
