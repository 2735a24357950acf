//! Devices that wgpu reaches, and the application's own.

use std::pin::pin;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use burn::tensor::wgpu::wgpu::{self, Backends, Instance, InstanceDescriptor};
use burn::tensor::wgpu::{WgpuBackend, WgpuInitError, WgpuSetup};
use burn::tensor::{Device, DeviceKind};

use super::backends::Wanted;
use super::limits::wgpu as limits;
use super::{DeviceError, probe};
use crate::{Error, Result};

/// The graphics APIs that a name stands for, best first.
pub(super) struct Apis(&'static [(WgpuBackend, Backends)]);

pub(super) const AUTO: Apis = Apis(&[
    (WgpuBackend::Vulkan, Backends::VULKAN),
    // Asked for by name, Metal would not do without the cargo feature `metal`.
    (WgpuBackend::Auto, Backends::METAL),
    (WgpuBackend::Dx12, Backends::DX12),
    (WgpuBackend::Gl, Backends::GL),
]);
pub(super) const VULKAN: Apis = Apis(&[(WgpuBackend::Vulkan, Backends::VULKAN)]);
pub(super) const METAL: Apis = Apis(&[(WgpuBackend::Metal, Backends::METAL)]);
pub(super) const WEBGPU: Apis = Apis(&[(WgpuBackend::WebGpu, Backends::BROWSER_WEBGPU)]);

/// The selector that asks for an adapter that computes on the CPU.
const SOFTWARE: &str = "cpu";

/// For listing adapters. Never dropped: Vulkan's loader does not like instances that come and go.
static INSTANCE: LazyLock<Instance> =
    LazyLock::new(|| Instance::new(InstanceDescriptor::new_without_display_handle()));

impl Apis {
    pub(super) fn open(&self, wanted: &Wanted<'_>) -> Result<Device, DeviceError> {
        let needs = wanted.backend.needs;
        let (api, kind) = self.adapter(wanted)?;
        // `wgpu` and `vulkan` may be the same GPU, which Burn opens once.
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = opened.iter().find(|o| o.api == api && o.kind == kind) {
            return Ok(same.device.clone());
        }
        let options = Device::wgpu_options().device_kind(kind.clone());
        match options.graphics_api(api).init_with_setup() {
            Ok((device, setup)) => {
                limits::remember(&device, limits::of(&setup.device));
                opened.push(Opened {
                    api,
                    kind,
                    device: device.clone(),
                    setup,
                });
                Ok(device)
            }
            Err(WgpuInitError::Registration { message }) => Err(DeviceError::Failed {
                message: format!("{message}; if the program has opened it, it has its device"),
                needs,
            }),
            Err(error) => Err(DeviceError::Failed {
                message: error.to_string(),
                needs,
            }),
        }
    }

    /// The adapter that was asked for. Left to itself wgpu would take a software adapter where
    /// there is no GPU, and be slower than any CPU backend without a word.
    fn adapter(&self, wanted: &Wanted<'_>) -> Result<(WgpuBackend, DeviceKind), DeviceError> {
        let mut software = None;
        let mut refused = false;
        let found = self.0.iter().map(|(api, backends)| {
            let (gpus, has_software) = adapters(*backends);
            if has_software && crashes_software_adapters(*backends) {
                refused = true;
            } else if has_software {
                software = software.take().or(Some((*api, DeviceKind::Cpu)));
            }
            gpus.into_iter().map(|kind| (*api, kind)).collect()
        });
        // The same GPU answers on several APIs, so only the first that has one counts.
        let gpus: Vec<_> = (found.collect::<Vec<Vec<_>>>().into_iter())
            .find(|gpus| !gpus.is_empty())
            .unwrap_or_default();
        if wanted.selector == Some(SOFTWARE) {
            return software.ok_or_else(|| match refused {
                true => DeviceError::Failed {
                    message: NO_SOFTWARE_SPIRV.into(),
                    needs: "a program without the cargo feature `vulkan`, or a GPU",
                },
                false => wanted.absent(),
            });
        }
        let index = wanted.index("the GPU's index, a number, or cpu for a software adapter")?;
        match gpus.len() {
            0 if software.is_some() || refused => Err(DeviceError::SoftwareOnly {
                name: format!("{}:{SOFTWARE}", wanted.backend.name),
            }),
            0 => Err(wanted.absent()),
            found => (gpus.into_iter().nth(index)).ok_or(DeviceError::NoSuchIndex { found }),
        }
    }
}

/// The GPUs of an API, best kind first, and whether it has a software adapter.
fn adapters(backends: Backends) -> (Vec<DeviceKind>, bool) {
    let adapters = ready(INSTANCE.enumerate_adapters(backends));
    let types = adapters
        .iter()
        .map(|adapter| adapter.get_info().device_type);
    let types: Vec<wgpu::DeviceType> = types.collect();
    let count = |kind| types.iter().filter(|t| **t == kind).count();
    let discrete = (0..count(wgpu::DeviceType::DiscreteGpu)).map(DeviceKind::DiscreteGpu);
    let integrated = (0..count(wgpu::DeviceType::IntegratedGpu)).map(DeviceKind::IntegratedGpu);
    let virtual_ = (0..count(wgpu::DeviceType::VirtualGpu)).map(DeviceKind::VirtualGpu);
    let mut gpus: Vec<DeviceKind> = discrete.chain(integrated).chain(virtual_).collect();
    if gpus.is_empty() && count(wgpu::DeviceType::Other) > 0 {
        // Of no kind that could be selected; wgpu's own choice is a GPU then.
        gpus.push(DeviceKind::DefaultDevice);
    }
    (gpus, count(wgpu::DeviceType::Cpu) > 0)
}

/// With the cargo feature `vulkan`, Burn hands Vulkan drivers SPIR-V of its own. cubecl-spirv
/// 0.11.3 declares shared memory wrongly for drivers without
/// `VK_KHR_workgroup_memory_explicit_layout`, and the compiler of Mesa's software driver crashes
/// on it, which no error handling catches.
fn crashes_software_adapters(backends: Backends) -> bool {
    cfg!(feature = "vulkan") && backends == Backends::VULKAN
}

const NO_SOFTWARE_SPIRV: &str =
    "Burn's SPIR-V, which the cargo feature `vulkan` selects, crashes Vulkan's software drivers";

/// wgpu's futures are ready at once outside of browsers.
fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

/// A device opened here, and the handles behind it.
struct Opened {
    api: WgpuBackend,
    kind: DeviceKind,
    device: Device,
    setup: WgpuSetup,
}

static OPENED: Mutex<Vec<Opened>> = Mutex::new(Vec::new());

/// The wgpu handles of a device that [`device`](crate::device) opened, so that the application
/// works on the same GPU, memory and queue. `None` for any other device.
///
/// Do not register them again; clone the device.
pub fn wgpu_setup(device: &Device) -> Option<WgpuSetup> {
    let opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let found = opened.iter().find(|opened| opened.device == *device);
    found.map(|opened| opened.setup.clone())
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
    if cfg!(feature = "vulkan") && setup.backend == wgpu::Backend::Vulkan {
        let message = "with the feature `vulkan` Burn needs more of a Vulkan device than wgpu asks \
                       for; open `vulkan` by name and use its `wgpu_setup`";
        return Err(failed(message.into()));
    }
    let largest = limits::of(&setup.device);
    let device = Device::wgpu_options().setup(setup).init();
    let device = device.map_err(|e| failed(e.to_string()))?;
    limits::remember(&device, largest);
    probe(&device).map_err(|e| failed(e.to_string()))?;
    Ok(device)
}
