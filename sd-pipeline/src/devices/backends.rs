//! The table of backends, and how each opens a device.

use burn::tensor::Device;

use super::DeviceErrorKind;
#[cfg(feature = "remote")]
use super::remote;
use super::selector::Selector;
#[cfg(feature = "wgpu")]
use super::wgpu::{
    self,
    adapters::{AUTO, METAL, VULKAN, WEBGPU},
};

/// A backend of Burn.
pub(super) struct Backend {
    /// Its name here.
    pub(super) name: &'static str,
    /// The cargo feature that compiles it in.
    pub(super) feature: &'static str,
    /// The hardware or driver that a machine must have to run it.
    pub(super) needs: &'static str,
    /// The way to open a device; `None` when the backend is not in this program. Some of Burn's
    /// constructors do not fail, so what comes back has still to be tried.
    pub(super) open: Option<Open>,
}

type Open = fn(&Selector<'_>) -> Result<Device, DeviceErrorKind>;

macro_rules! backends {
    ($($name:literal if $feature:literal, $needs:literal => |$selector:ident| $open:expr;)*) => {
        /// All backends, in the order in which they are listed.
        pub(super) const BACKENDS: &[Backend] = &[$(Backend {
            name: $name,
            feature: $feature,
            needs: $needs,
            open: {
                #[cfg(feature = $feature)]
                {
                    fn open($selector: &Selector<'_>) -> Result<Device, DeviceErrorKind> { $open }
                    Some(open)
                }
                #[cfg(not(feature = $feature))]
                None
            },
        }),*];
    };
}

backends! {
    "flex" if "flex", "a CPU" => |selector| {
        selector.index_below(1)?;
        Ok(Device::flex())
    };
    "ndarray" if "ndarray", "a CPU" => |selector| {
        selector.index_below(1)?;
        #[allow(deprecated, reason = "kept for programs that depend on ndarray's numerics")]
        Ok(Device::ndarray())
    };
    "wgpu" if "wgpu", "a graphics driver: Vulkan (on Debian mesa-vulkan-drivers or the vendor's), Metal, \
        Direct3D 12 or OpenGL ES 3.1" => |selector| wgpu::open(&AUTO, selector);
    "vulkan" if "wgpu", "a Vulkan driver (on Debian mesa-vulkan-drivers or the vendor's)"
        => |selector| wgpu::open(&VULKAN, selector);
    "metal" if "wgpu", "macOS on a computer with Metal" => |selector| wgpu::open(&METAL, selector);
    "webgpu" if "wgpu", "a browser with WebGPU; outside of one `wgpu` is what you want"
        => |selector| wgpu::open(&WEBGPU, selector);
    "cuda" if "cuda", "an NVIDIA GPU with its driver (libcuda) and CUDA's run-time compiler (libnvrtc)"
        => |selector| {
            let found = Device::enumerate(burn::tensor::DeviceType::Cuda).len();
            Ok(Device::cuda(selector.index_below(found)?))
        };
    "rocm" if "rocm", "an AMD GPU with ROCm (libamdhip64)" => |selector| {
        let found = Device::enumerate(burn::tensor::DeviceType::Rocm).len();
        Ok(Device::rocm(selector.index_below(found)?))
    };
    "cpu" if "cpu", "a CPU for which CubeCL's LLVM makes code" => |selector| {
        selector.index_below(1)?;
        Ok(Device::cpu())
    };
    "tch" if "tch", "libtorch" => |selector| {
        selector.index_below(1)?;
        #[allow(deprecated, reason = "kept for programs that depend on libtorch's numerics")]
        Ok(Device::libtorch())
    };
    "remote" if "remote", "a Burn server that answers at the address" => |selector| {
        remote::open_by_name(selector.text.unwrap_or_default())
    };
}

/// The order in which `auto` tries: GPUs by how well Burn serves them, then CPUs. A server is
/// never tried unasked.
pub(super) const BEST_FIRST: [&str; 10] = [
    "cuda", "rocm", "metal", "vulkan", "wgpu", "webgpu", "flex", "cpu", "ndarray", "tch",
];
