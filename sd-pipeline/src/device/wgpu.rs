//! Devices that wgpu reaches, and the application's own.

use std::sync::{Mutex, PoisonError};

#[cfg(feature = "vulkan")]
use burn::tensor::wgpu::wgpu::Backend;
use burn::tensor::wgpu::{WgpuBackend, WgpuInitError, WgpuSetup};
use burn::tensor::{Device, DeviceKind, DeviceType};

use super::backends::Wanted;
use super::{DeviceError, probe};
use crate::{Error, Result};

/// A graphics API through which wgpu reaches adapters.
pub(super) struct Api {
    backend: WgpuBackend,
    /// For listing its devices.
    kind: DeviceType,
    /// The device of that adapter, not opened yet.
    device: fn(DeviceKind) -> Device,
}

/// The best API there is on this machine.
#[allow(
    dead_code,
    reason = "`vulkan` and the others imply `wgpu`, but not the reverse"
)]
pub(super) const AUTO: Api = Api {
    backend: WgpuBackend::Auto,
    kind: DeviceType::Wgpu,
    device: Device::wgpu,
};
#[cfg(feature = "vulkan")]
pub(super) const VULKAN: Api = Api {
    backend: WgpuBackend::Vulkan,
    kind: DeviceType::Vulkan,
    device: Device::vulkan,
};
#[cfg(feature = "metal")]
pub(super) const METAL: Api = Api {
    backend: WgpuBackend::Metal,
    kind: DeviceType::Metal,
    device: Device::metal,
};
#[cfg(feature = "webgpu")]
pub(super) const WEBGPU: Api = Api {
    backend: WgpuBackend::WebGpu,
    kind: DeviceType::WebGpu,
    device: Device::webgpu,
};

/// The selector that asks for the adapter that computes on the CPU.
const SOFTWARE: &str = "cpu";

impl Api {
    pub(super) fn open(&self, wanted: &Wanted<'_>) -> Result<Device, DeviceError> {
        let kind = self.adapter(wanted)?;
        let options = Device::wgpu_options().device_kind(kind.clone());
        match options.graphics_api(self.backend).init_with_setup() {
            Ok((device, setup)) => {
                let mut setups = SETUPS.lock().unwrap_or_else(PoisonError::into_inner);
                setups.push((device.clone(), setup));
                Ok(device)
            }
            // An adapter is opened once in a process; the program did so before us.
            Err(WgpuInitError::Registration { .. }) => Ok((self.device)(kind)),
            Err(error) => Err(DeviceError::Failed {
                message: error.to_string(),
                needs: wanted.backend.needs,
            }),
        }
    }

    /// The adapter that was asked for. Left to itself wgpu would take a software adapter where
    /// there is no GPU, and be slower than any CPU backend without a word.
    fn adapter(&self, wanted: &Wanted<'_>) -> Result<DeviceKind, DeviceError> {
        let found: Vec<Device> = Device::enumerate(self.kind.clone())
            .iter()
            .cloned()
            .collect();
        let is_there = |kind: &DeviceKind| found.contains(&(self.device)(kind.clone()));
        if wanted.selector == Some(SOFTWARE) {
            let software = Some(DeviceKind::Cpu).filter(is_there);
            return software.ok_or_else(|| wanted.absent());
        }
        let expected = "the GPU's index, a number, or cpu for a software adapter";
        let index = wanted.index(expected)?;
        let kinds = [
            DeviceKind::DiscreteGpu,
            DeviceKind::IntegratedGpu,
            DeviceKind::VirtualGpu,
            DeviceKind::Other,
        ];
        let gpus = kinds.map(|kind| (0..).map(kind).take_while(&is_there));
        let gpus: Vec<DeviceKind> = gpus.into_iter().flatten().collect();
        match gpus.len() {
            0 if is_there(&DeviceKind::Cpu) => Err(DeviceError::SoftwareOnly {
                name: format!("{}:{SOFTWARE}", wanted.backend.name),
            }),
            0 => Err(wanted.absent()),
            found => gpus
                .into_iter()
                .nth(index)
                .ok_or(DeviceError::NoSuchIndex { found }),
        }
    }
}

/// The handles of the devices opened here.
static SETUPS: Mutex<Vec<(Device, WgpuSetup)>> = Mutex::new(Vec::new());

/// The wgpu handles of a device that [`device`](crate::device) opened, so that the application
/// works on the same GPU, memory and queue. `None` for any other device.
///
/// Do not register them again; clone the device.
pub fn wgpu_setup(device: &Device) -> Option<WgpuSetup> {
    let setups = SETUPS.lock().unwrap_or_else(PoisonError::into_inner);
    let found = setups.iter().find(|(opened, _)| opened == device);
    found.map(|(_, setup)| setup.clone())
}

/// A device on wgpu handles that the application already has, so that a game or an editor and
/// the pipeline share one GPU, its memory and its queue.
///
/// Register each setup once and clone the device. The types are those of
/// [`burn::tensor::wgpu::wgpu`], the wgpu version that Burn uses. The handles should have been
/// requested with all the features and limits that the adapter offers: what is missing is not
/// emulated. Reading a picture waits for the pipeline's work on the queue; nothing else does.
///
/// With the cargo feature `vulkan`, Burn gives Vulkan drivers code that needs device features
/// which wgpu itself cannot ask for. In a program with that feature take the other way round:
/// open `vulkan` with [`device`](crate::device) and work on its [`wgpu_setup`].
///
/// # Errors
/// [`Error::Device`] when the handles do not belong together, lack what Burn needs, or their
/// first use fails.
pub fn wgpu_device(setup: WgpuSetup) -> Result<Device> {
    let failed = |message: String| Error::Device {
        name: "the application's wgpu device".into(),
        source: DeviceError::Failed {
            message,
            needs: "an instance, adapter, device and queue that belong together",
        },
    };
    #[cfg(feature = "vulkan")]
    if setup.backend == Backend::Vulkan {
        let message = "with the feature `vulkan` Burn needs more of a Vulkan device than wgpu asks \
                       for; open `vulkan` by name and use its `wgpu_setup`";
        return Err(failed(message.into()));
    }
    let device = Device::wgpu_options().setup(setup).init();
    let device = device.map_err(|e| failed(e.to_string()))?;
    probe(&device).map_err(|e| failed(e.to_string()))?;
    Ok(device)
}
