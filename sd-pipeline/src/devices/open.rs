use burn::tensor::Device;

use super::backends::{BACKENDS, BEST_FIRST};
use super::probe::probe;
use super::registry::REGISTRY;
use super::selector::Selector;
use super::{DeviceError, DeviceErrorKind};
use crate::guard::guard;

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
/// [`DeviceError`] when the name is unknown, the backend is not compiled into this program (it
/// says which cargo feature would), or this machine lacks the device or its driver (it says
/// which).
pub fn open(name: &str) -> Result<Device, DeviceError> {
    let opened = match name {
        "auto" => best(),
        _ => named(name),
    };
    opened.map_err(|kind| kind.of(name))
}

/// The name that opened `device` first; `None` for one that was opened by more than a name.
pub fn name_of(device: &Device) -> Option<String> {
    REGISTRY.of(device, |opened| opened.names.first().cloned())
}

/// The names of the backends compiled into this program.
pub fn names() -> Vec<&'static str> {
    let compiled = BACKENDS.iter().filter(|backend| backend.open.is_some());
    compiled.map(|backend| backend.name).collect()
}

fn named(name: &str) -> Result<Device, DeviceErrorKind> {
    let (kind, text) = match name.split_once(':') {
        Some((kind, text)) => (kind, Some(text)),
        None => (name, None),
    };
    let backend = BACKENDS.iter().find(|backend| backend.name == kind);
    let backend = backend.ok_or_else(|| {
        let known = BACKENDS.iter().map(|backend| backend.name);
        let known = known.collect::<Vec<_>>().join(", ");
        DeviceErrorKind::Unknown { known }
    })?;
    let (feature, needs) = (backend.feature, backend.needs);
    let open = (backend.open).ok_or(DeviceErrorKind::NotCompiled { feature })?;
    let selector = Selector {
        backend: backend.name,
        needs,
        text,
    };
    let full_name = format!("{kind}:{}", text.unwrap_or("0"));
    let _turn = REGISTRY.turn();
    if let Some(device) = REGISTRY.named(&full_name) {
        return Ok(device);
    }
    let failed = |error: sd_core::Error| DeviceErrorKind::Failed {
        message: error.to_string(),
        needs,
    };
    let device = guard("opening the device", || Ok(open(&selector))).map_err(failed)??;
    probe(&device).map_err(failed)?;
    REGISTRY.name(&device, full_name);
    Ok(device)
}

fn best() -> Result<Device, DeviceErrorKind> {
    let mut tried = Vec::new();
    for name in BEST_FIRST {
        match named(name) {
            Ok(device) => {
                tracing::info!(device = name, "chosen as the best device");
                return Ok(device);
            }
            Err(DeviceErrorKind::NotCompiled { .. }) => {}
            Err(kind) => tried.push(format!("{name}: {kind}")),
        }
    }
    let tried = match tried.is_empty() {
        true => "none is compiled in".into(),
        false => tried.join("; "),
    };
    Err(DeviceErrorKind::Nothing { tried })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str) -> String {
        open(name).unwrap_err().to_string()
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
        for backend in BACKENDS.iter().filter(|backend| backend.open.is_none()) {
            let error = named(backend.name).unwrap_err();
            let feature = backend.feature;
            assert_eq!(error, DeviceErrorKind::NotCompiled { feature });
            let says = format!("cargo feature `{feature}`");
            assert!(message(&format!("{}:0", backend.name)).contains(&says));
        }
    }

    #[test]
    fn the_best_device_is_one_that_runs() {
        assert!(open("auto").is_ok());
        assert!(
            BEST_FIRST
                .iter()
                .all(|name| BACKENDS.iter().any(|b| b.name == *name))
        );
    }

    #[test]
    fn opening_twice_gives_the_same_device() {
        let threads = [0; 4].map(|_| std::thread::spawn(|| open("flex").unwrap()));
        let devices = threads.map(|thread| thread.join().unwrap());
        assert!(
            devices
                .iter()
                .all(|other| *other == open("flex:0").unwrap())
        );
    }
}
