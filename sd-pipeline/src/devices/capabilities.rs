//! Limits and abilities of devices.

use burn::tensor::{Device, FloatDType};
use sd_core::{Error, Result};

use super::registry::REGISTRY;

/// The largest single buffer, in bytes, that `device` can work on; `None` where only its memory
/// limits it, and for devices that were not opened by this crate.
///
/// GPUs that wgpu reaches have such a limit, often 128 MiB to 2 GiB: less than one picture inside
/// the autoencoder. [`Pipeline::open`](crate::Pipeline::open) hands it to the autoencoder, which
/// cuts larger pictures.
pub fn largest_buffer(device: &Device) -> Option<u64> {
    REGISTRY.of(device, |opened| opened.largest_buffer)
}

/// Checks that `device` computes in `dtype`.
pub(crate) fn check_precision(device: &Device, dtype: FloatDType) -> Result<()> {
    if device.supports_dtype(dtype) {
        return Ok(());
    }
    let others = [FloatDType::F32, FloatDType::F16, FloatDType::BF16];
    let others = others.into_iter().filter(|d| device.supports_dtype(*d));
    let others: Vec<String> = others.map(|dtype| format!("{dtype:?}")).collect();
    let expected = format!("{device:?} computes in {}", others.join(" and "));
    Err(Error::invalid("dtype", format!("{dtype:?}"), expected))
}

/// True for a backend that compiles and tunes kernels when they are first used.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_precision_that_the_device_lacks_is_refused() {
        let flex = crate::device("flex").unwrap();
        assert!(check_precision(&flex, FloatDType::F16).is_ok());
        let error = check_precision(&flex, FloatDType::Flex32).unwrap_err();
        assert!(error.to_string().contains("F32 and F16"), "{error}");
    }
}
