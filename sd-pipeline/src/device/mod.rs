//! Devices by name.

mod backends;
mod error;
mod limits;
#[cfg(feature = "remote")]
mod remote;
#[cfg(feature = "wgpu")]
mod wgpu;

use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Device, FloatDType, Tensor};

use crate::guard::guard;
use crate::{Error, Result};
use backends::{BACKENDS, BEST_FIRST, Backend, Wanted};

pub use error::DeviceError;
pub(crate) use limits::compiles_kernels;
pub use limits::largest_buffer;
#[cfg(feature = "remote")]
#[cfg_attr(docsrs, doc(cfg(feature = "remote")))]
pub use remote::{RemoteOptions, Traffic, remote_device, remote_traffic, serve};
#[cfg(feature = "wgpu")]
#[cfg_attr(docsrs, doc(cfg(feature = "wgpu")))]
pub use wgpu::{wgpu_device, wgpu_setup};

/// What was opened under which name: several backends can open a device only once in a process.
static OPENED: Mutex<Vec<(String, Device)>> = Mutex::new(Vec::new());

/// The device called `name`: a backend, a backend and an index as in `cuda:1`, or `auto`.
///
/// | name | backend |
/// |---|---|
/// | `auto` | the best that is compiled in and present: a GPU before a CPU |
/// | `flex` | Burn's CPU backend in pure Rust; the default feature |
/// | `ndarray` | the older CPU backend |
/// | `wgpu`, `vulkan`, `metal`, `webgpu` | GPUs through wgpu, on any or on the named API; all with the cargo feature `wgpu` |
/// | `cuda`, `rocm` | NVIDIA and AMD GPUs |
/// | `cpu` | CubeCL on LLVM |
/// | `tch` | libtorch |
/// | `remote:ws://gpu:3000` | a Burn server; `remote:ws://gpu:3000#1` its second device |
///
/// Indices count from 0, for wgpu over discrete, then integrated, then virtual GPUs. A software
/// adapter such as lavapipe is taken only when asked for, as `wgpu:cpu` or `vulkan:cpu`.
///
/// The device is used once before it is returned, so that a driver that is missing or broken
/// shows here. Opening it again returns the same device, except one whose server was lost: that
/// connects anew.
///
/// # Errors
/// [`Error::Device`] when the name is unknown, the backend is not compiled into this program (it
/// says which cargo feature would), or this machine lacks the device or its driver (it says
/// which).
pub fn device(name: &str) -> Result<Device> {
    let opened = match name {
        "auto" => best(),
        _ => named(name),
    };
    opened.map_err(|source| Error::Device {
        name: name.into(),
        source,
    })
}

/// The names of the backends compiled into this program.
pub fn device_names() -> Vec<&'static str> {
    let compiled = BACKENDS.iter().filter(|backend| backend.compiled);
    compiled.map(|backend| backend.name).collect()
}

fn named(name: &str) -> Result<Device, DeviceError> {
    let (kind, selector) = match name.split_once(':') {
        Some((kind, selector)) => (kind, Some(selector)),
        None => (name, None),
    };
    let backend = BACKENDS.iter().find(|backend| backend.name == kind);
    let backend = backend.ok_or_else(|| DeviceError::Unknown {
        known: BACKENDS
            .iter()
            .map(|b| b.name)
            .collect::<Vec<_>>()
            .join(", "),
    })?;
    if !backend.compiled {
        let feature = backend.feature;
        return Err(DeviceError::NotCompiled { feature });
    }
    // Held until the device is there: a second thread must not open it beside us. A panic of a
    // backend leaves the list as it was.
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let key = format!("{kind}:{}", selector.unwrap_or("0"));
    #[cfg(feature = "remote")]
    opened.retain(|(_, device)| remote::lost(device, None).is_none());
    if let Some((_, device)) = opened.iter().find(|(name, _)| *name == key) {
        return Ok(device.clone());
    }
    let device = open(backend, selector)?;
    opened.push((key, device.clone()));
    Ok(device)
}

fn open(backend: &Backend, selector: Option<&str>) -> Result<Device, DeviceError> {
    let failed = |error: sd_core::Error| DeviceError::Failed {
        message: error.to_string(),
        needs: backend.needs,
    };
    let wanted = Wanted { backend, selector };
    let device = guard("opening the device", || Ok((backend.open)(&wanted))).map_err(failed)??;
    probe(&device).map_err(failed)?;
    Ok(device)
}

/// Uses `device` once: several of Burn's constructors do not fail, the first use does.
fn probe(device: &Device) -> sd_core::Result<()> {
    guard("its first use", || {
        let one = Tensor::<1>::ones([1], (device, DType::F32)).add_scalar(1.0f32);
        let two = one.try_into_scalar::<f32>();
        match two.map_err(|e| sd_core::Error::backend("its first use", e))? {
            2.0 => Ok(()),
            other => Err(sd_core::Error::backend(
                "its first use",
                format!("1 + 1 gave {other}"),
            )),
        }
    })
}

/// Runs `work`, which computes on `devices`, and waits until they have done it: what is said to be
/// done then is, and a failure shows where it happened. A server that is lost over it is an
/// [`Error::Device`].
pub(crate) fn on<T>(
    devices: &[&Device],
    during: &'static str,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    #[cfg(feature = "remote")]
    let _due = remote::Due::of(devices);
    let result: Result<T> = guard(during, || {
        let value = work()?;
        for device in devices {
            synchronise(device)?;
        }
        Ok(value)
    });
    #[cfg(feature = "remote")]
    if let Err(failure) = &result {
        let failure = failure.to_string();
        let lost = |device: &&Device| remote::lost(device, Some(&failure));
        if let Some(lost) = devices.iter().find_map(lost) {
            return Err(lost);
        }
    }
    result
}

fn synchronise(device: &Device) -> sd_core::Result<()> {
    guard("waiting for the device", || {
        let done = device.sync();
        done.map_err(|e| sd_core::Error::backend("waiting for the device", e))
    })
}

/// `tensor` on `device`, by way of the host: two servers need not reach each other.
pub(crate) fn moved<const D: usize>(
    tensor: Tensor<D>,
    device: &Device,
) -> sd_core::Result<Tensor<D>> {
    if tensor.device() == *device {
        return Ok(tensor);
    }
    let dtype = tensor.dtype();
    let data = tensor.try_into_data();
    let data = data.map_err(|e| sd_core::Error::backend("moving a tensor", e))?;
    Ok(Tensor::from_data(data, (device, dtype)))
}

fn best() -> Result<Device, DeviceError> {
    let mut tried = Vec::new();
    for name in BEST_FIRST {
        match named(name) {
            Ok(device) => {
                tracing::info!(device = name, "chosen as the best device");
                return Ok(device);
            }
            Err(DeviceError::NotCompiled { .. }) => {}
            Err(error) => tried.push(format!("{name}: {error}")),
        }
    }
    let tried = match tried.is_empty() {
        true => "none is compiled in".into(),
        false => tried.join("; "),
    };
    Err(DeviceError::Nothing { tried })
}

/// Whether `device` computes in `dtype`.
pub(crate) fn check_precision(device: &Device, dtype: FloatDType) -> sd_core::Result<()> {
    if device.supports_dtype(dtype) {
        return Ok(());
    }
    let others = [FloatDType::F32, FloatDType::F16, FloatDType::BF16];
    let others = others.into_iter().filter(|d| device.supports_dtype(*d));
    let others: Vec<String> = others.map(|dtype| format!("{dtype:?}")).collect();
    let expected = format!("{device:?} computes in {}", others.join(" and "));
    Err(sd_core::Error::invalid(
        "dtype",
        format!("{dtype:?}"),
        expected,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str) -> String {
        device(name).unwrap_err().to_string()
    }

    #[test]
    fn a_name_that_is_not_understood_is_an_error_that_says_what_is() {
        assert!(message("gpu").contains("known are flex, ndarray, wgpu"));
        assert!(message("").contains("known are flex"));
        assert!(message("flex:one").contains("a number"));
        assert!(message("flex:").contains("a number"));
        assert!(message("flex:7").contains("this machine has 1, counted from 0"));
    }

    #[test]
    fn a_backend_that_is_not_compiled_in_names_its_feature() {
        for backend in BACKENDS.iter().filter(|backend| !backend.compiled) {
            let error = named(backend.name).unwrap_err();
            let feature = backend.feature;
            assert_eq!(error, DeviceError::NotCompiled { feature });
            let says = format!("cargo feature `{feature}`");
            assert!(message(&format!("{}:0", backend.name)).contains(&says));
        }
    }

    #[test]
    fn the_best_device_is_one_that_runs() {
        assert!(device("auto").is_ok());
        assert!(
            BEST_FIRST
                .iter()
                .all(|name| BACKENDS.iter().any(|b| b.name == *name))
        );
    }

    #[test]
    fn opening_twice_gives_the_same_device() {
        let threads = [0; 4].map(|_| std::thread::spawn(|| device("flex").unwrap()));
        let devices = threads.map(|thread| thread.join().unwrap());
        assert!(
            devices
                .iter()
                .all(|other| *other == device("flex:0").unwrap())
        );
    }

    #[test]
    fn a_precision_that_the_device_lacks_is_refused() {
        let flex = device("flex").unwrap();
        assert!(check_precision(&flex, FloatDType::F16).is_ok());
        let error = check_precision(&flex, FloatDType::Flex32).unwrap_err();
        assert!(error.to_string().contains("F32 and F16"), "{error}");
    }
}
