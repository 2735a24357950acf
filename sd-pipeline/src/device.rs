use burn::tensor::{Device, Tensor};

use crate::guard::guard;
use crate::{Error, Result};

/// A backend of Burn: its name here, which is also the cargo feature that compiles it in, whether
/// this program has it, and how to open the `index`-th device of its kind.
struct Backend {
    name: &'static str,
    compiled: bool,
    open: fn(usize) -> Option<Device>,
}

macro_rules! backends {
    ($($name:literal => |$index:ident| $open:expr;)*) => {
        const BACKENDS: &[Backend] = &[$(Backend {
            name: $name,
            compiled: cfg!(feature = $name),
            open: {
                #[cfg(feature = $name)]
                fn open($index: usize) -> Option<Device> { $open }
                #[cfg(not(feature = $name))]
                fn open(_: usize) -> Option<Device> { None }
                open
            },
        }),*];
    };
}

backends! {
    "flex" => |index| (index == 0).then(Device::flex);
    "ndarray" => |index| {
        #[allow(deprecated, reason = "kept for programs that depend on ndarray's numerics")]
        (index == 0).then(Device::ndarray)
    };
    "wgpu" => |index| Some(Device::wgpu(gpu(index)));
    "vulkan" => |index| Some(Device::vulkan(gpu(index)));
    "metal" => |index| Some(Device::metal(gpu(index)));
    "webgpu" => |index| Some(Device::webgpu(gpu(index)));
    "cuda" => |index| {
        let found = Device::enumerate(burn::tensor::DeviceType::Cuda).len();
        (index < found).then(|| Device::cuda(index))
    };
    "rocm" => |index| {
        let found = Device::enumerate(burn::tensor::DeviceType::Rocm).len();
        (index < found).then(|| Device::rocm(index))
    };
    "cpu" => |index| (index == 0).then(Device::cpu);
    "tch" => |index| {
        #[allow(deprecated, reason = "kept for programs that depend on libtorch's numerics")]
        (index == 0).then(Device::libtorch)
    };
}

/// wgpu's choice for 0, the discrete adapter of that index from 1 on.
#[cfg(feature = "wgpu")]
fn gpu(index: usize) -> burn::tensor::DeviceKind {
    match index {
        0 => burn::tensor::DeviceKind::DefaultDevice,
        index => burn::tensor::DeviceKind::DiscreteGpu(index),
    }
}

/// The device called `name`: a backend, or a backend and an index as in `cuda:1`.
///
/// | name | backend |
/// |---|---|
/// | `flex` | Burn's CPU backend in pure Rust; the default feature |
/// | `ndarray` | the older CPU backend |
/// | `wgpu`, `vulkan`, `metal`, `webgpu` | GPUs through wgpu, on any or on the named API |
/// | `cuda`, `rocm` | NVIDIA and AMD GPUs |
/// | `cpu` | CubeCL on LLVM |
/// | `tch` | libtorch |
///
/// # Errors
/// [`Error::Device`] when the name is unknown, the backend is not compiled into this program (it
/// says which cargo feature would), or this machine has no such device.
pub fn device(name: &str) -> Result<Device> {
    let wrong = |reason: String| Error::Device {
        name: name.into(),
        reason,
    };
    let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
    let backend = BACKENDS.iter().find(|backend| backend.name == kind);
    let backend = backend.ok_or_else(|| {
        let known: Vec<_> = BACKENDS.iter().map(|backend| backend.name).collect();
        wrong(format!(
            "there is no such backend; known are {}",
            known.join(", ")
        ))
    })?;
    if !backend.compiled {
        let hint = format!("not compiled in; build with the cargo feature `{kind}`");
        return Err(wrong(hint));
    }
    let index = index
        .parse()
        .map_err(|_| wrong("what follows the colon must be the device's index, a number".into()))?;
    let opened = guard("opening the device", || Ok((backend.open)(index)));
    let device = opened.map_err(|e| wrong(e.to_string()))?;
    let device = device.ok_or_else(|| wrong("this machine has no such device".into()))?;
    // Burn's constructors do not fail, the first use does; so it happens here.
    let probe = guard("its first use", || {
        let one = Tensor::<1>::ones([1], &device).add_scalar(1.0f32);
        let value = one.try_into_scalar::<f32>();
        value.map_err(|e| sd_core::Error::backend("its first use", e))
    });
    match probe {
        Ok(_) => Ok(device),
        Err(error) => Err(wrong(format!(
            "it is compiled in but does not run here: {error}"
        ))),
    }
}

/// The names of the backends compiled into this program.
pub fn device_names() -> Vec<&'static str> {
    let compiled = BACKENDS.iter().filter(|backend| backend.compiled);
    compiled.map(|backend| backend.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_or_absent_backend_is_an_error_that_says_what_helps() {
        let message = |name| device(name).unwrap_err().to_string();
        assert!(message("gpu").contains("known are flex, ndarray, wgpu"));
        assert!(message("flex:one").contains("a number"));
        assert!(message("flex:7").contains("no such device"));
        #[cfg(not(feature = "rocm"))]
        assert!(message("rocm:0").contains("cargo feature `rocm`"));
    }
}
