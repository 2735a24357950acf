//! Devices that wgpu reaches, and the application's own.

pub(super) mod adapters;

use burn::tensor::Device;
use burn::tensor::wgpu::{WgpuInitError, WgpuSetup, wgpu};

use super::probe::probe;
use super::registry::{Opened, REGISTRY};
use super::selector::Selector;
use super::{DeviceError, DeviceErrorKind};
use adapters::{Adapter, Apis};

/// The wgpu handles of a device that [`devices::open`](fn@super::open) opened, so that the application
/// works on the same GPU, memory and queue. `None` for any other device.
///
/// Do not register them again; clone the device.
pub fn setup(device: &Device) -> Option<WgpuSetup> {
    REGISTRY.of(device, |opened| {
        let (_, setup) = opened.wgpu.as_ref()?;
        Some(setup.clone())
    })
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
/// open `vulkan` with [`devices::open`](fn@super::open) and work on its [`setup`].
///
/// # Errors
/// [`DeviceErrorKind::Failed`] when the handles do not belong together, lack what Burn needs, or their
/// first use fails.
pub fn from_setup(setup: WgpuSetup) -> Result<Device, DeviceError> {
    let failed = |message: String| {
        let needs = "an instance, adapter, device and queue that belong together";
        DeviceErrorKind::Failed { message, needs }.of("the application's wgpu device")
    };
    if cfg!(feature = "vulkan") && setup.backend == wgpu::Backend::Vulkan {
        let message = "with the feature `vulkan` Burn needs more of a Vulkan device than wgpu asks \
                       for; open `vulkan` by name and use its `devices::wgpu::setup`";
        return Err(failed(message.into()));
    }
    let largest_buffer = Some(largest(&setup.device));
    let device = Device::wgpu_options().setup(setup).init();
    let device = device.map_err(|e| failed(e.to_string()))?;
    probe(&device).map_err(|e| failed(e.to_string()))?;
    REGISTRY.add(Opened {
        largest_buffer,
        ..Opened::new(&device)
    });
    Ok(device)
}

/// The device on the adapter that `selector` chooses among those of `apis`.
pub(super) fn open(apis: &Apis, selector: &Selector<'_>) -> Result<Device, DeviceErrorKind> {
    let needs = selector.needs;
    let adapter = apis.adapter(selector)?;
    // `wgpu` and `vulkan` may be the same GPU, which Burn opens once.
    let same = |opened: &Opened| {
        let (other, _) = opened.wgpu.as_ref()?;
        (*other == adapter).then(|| opened.device.clone())
    };
    if let Some(device) = REGISTRY.find(same) {
        return Ok(device);
    }
    let Adapter(api, kind) = adapter.clone();
    let options = Device::wgpu_options().device_kind(kind);
    match options.graphics_api(api).init_with_setup() {
        Ok((device, setup)) => {
            REGISTRY.add(Opened {
                largest_buffer: Some(largest(&setup.device)),
                wgpu: Some((adapter, setup)),
                ..Opened::new(&device)
            });
            Ok(device)
        }
        Err(WgpuInitError::Registration { message }) => Err(DeviceErrorKind::Failed {
            message: format!("{message}; if the program has opened it, it has its device"),
            needs,
        }),
        Err(error) => Err(DeviceErrorKind::Failed {
            message: error.to_string(),
            needs,
        }),
    }
}

/// The largest buffer that a kernel can be given whole.
fn largest(device: &wgpu::Device) -> u64 {
    let limits = device.limits();
    (limits.max_buffer_size).min(limits.max_storage_buffer_binding_size)
}
