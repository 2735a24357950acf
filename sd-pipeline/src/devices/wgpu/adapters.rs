//! The adapter that a name stands for.

use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use burn::tensor::DeviceKind;
use burn::tensor::wgpu::WgpuBackend;
use burn::tensor::wgpu::wgpu::{self, Backends, Instance, InstanceDescriptor};

use crate::devices::DeviceErrorKind;
use crate::devices::selector::Selector;

/// A graphics API, and an adapter on it.
#[derive(Clone, PartialEq)]
pub(in crate::devices) struct Adapter(pub(super) WgpuBackend, pub(super) DeviceKind);

/// The graphics APIs that a name stands for, best first.
pub(in crate::devices) struct Apis(&'static [(WgpuBackend, Backends)]);

pub(in crate::devices) const AUTO: Apis = Apis(&[
    (WgpuBackend::Vulkan, Backends::VULKAN),
    // Asked for by name, Metal would not do without the cargo feature `metal`.
    (WgpuBackend::Auto, Backends::METAL),
    (WgpuBackend::Dx12, Backends::DX12),
    (WgpuBackend::Gl, Backends::GL),
]);
pub(in crate::devices) const VULKAN: Apis = Apis(&[(WgpuBackend::Vulkan, Backends::VULKAN)]);
pub(in crate::devices) const METAL: Apis = Apis(&[(WgpuBackend::Metal, Backends::METAL)]);
pub(in crate::devices) const WEBGPU: Apis =
    Apis(&[(WgpuBackend::WebGpu, Backends::BROWSER_WEBGPU)]);

/// The selector that asks for an adapter that computes on the CPU.
const SOFTWARE: &str = "cpu";

/// For listing adapters. Never dropped: Vulkan's loader does not like instances that come and go.
static INSTANCE: LazyLock<Instance> =
    LazyLock::new(|| Instance::new(InstanceDescriptor::new_without_display_handle()));

impl Apis {
    /// The adapter that was asked for. Left to itself wgpu would take a software adapter where
    /// there is no GPU, and be slower than any CPU backend without a word.
    pub(super) fn adapter(&self, selector: &Selector<'_>) -> Result<Adapter, DeviceErrorKind> {
        let mut software = None;
        let mut refused = false;
        let found = self.0.iter().map(|(api, backends)| {
            let (gpus, has_software) = adapters(*backends);
            if has_software && crashes_software_adapters(*backends) {
                refused = true;
            } else if has_software {
                software = software.take().or(Some(Adapter(*api, DeviceKind::Cpu)));
            }
            gpus.into_iter().map(|kind| Adapter(*api, kind)).collect()
        });
        // The same GPU answers on several APIs, so only the first that has one counts.
        let gpus: Vec<_> = (found.collect::<Vec<Vec<_>>>().into_iter())
            .find(|gpus| !gpus.is_empty())
            .unwrap_or_default();
        if selector.text == Some(SOFTWARE) {
            return software.ok_or_else(|| match refused {
                true => DeviceErrorKind::Failed {
                    message: NO_SOFTWARE_SPIRV.into(),
                    needs: "a program without the cargo feature `vulkan`, or a GPU",
                },
                false => selector.absent(),
            });
        }
        let index = selector.index("the GPU's index, a number, or cpu for a software adapter")?;
        match gpus.len() {
            0 if software.is_some() || refused => Err(DeviceErrorKind::SoftwareOnly {
                name: format!("{}:{SOFTWARE}", selector.backend),
            }),
            0 => Err(selector.absent()),
            found => (gpus.into_iter().nth(index)).ok_or(DeviceErrorKind::NoSuchIndex { found }),
        }
    }
}

/// The GPUs of an API, best kind first, and true if it has a software adapter.
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
