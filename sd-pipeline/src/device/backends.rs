//! Which backends there are, and how each opens a device.

use burn::tensor::Device;

use super::DeviceError;

/// A backend of Burn.
pub(super) struct Backend {
    /// Its name here.
    pub(super) name: &'static str,
    /// The cargo feature that compiles it in.
    pub(super) feature: &'static str,
    /// Whether this program has it.
    pub(super) compiled: bool,
    /// What a machine must have to run it.
    pub(super) needs: &'static str,
    /// Opens the device that the text behind the colon selects. Some of Burn's constructors do
    /// not fail, so what comes back has still to be tried.
    pub(super) open: fn(&Wanted<'_>) -> Result<Device, DeviceError>,
}

/// What was asked of a [`Backend`].
pub(super) struct Wanted<'a> {
    pub(super) backend: &'a Backend,
    /// The text behind the colon.
    pub(super) selector: Option<&'a str>,
}

impl Wanted<'_> {
    /// The index behind the colon, 0 where there is none.
    #[allow(dead_code, reason = "every backend but remote counts its devices")]
    pub(super) fn index(&self, expected: &'static str) -> Result<usize, DeviceError> {
        let selector = self.selector.unwrap_or("0");
        selector.parse().map_err(|_| DeviceError::Selector {
            found: selector.into(),
            expected,
        })
    }

    /// The index behind the colon, when `found` devices are there.
    #[allow(dead_code, reason = "every backend but wgpu's counts this way")]
    pub(super) fn index_below(&self, found: usize) -> Result<usize, DeviceError> {
        let index = self.index("the device's index, a number")?;
        match found {
            0 => Err(self.absent()),
            _ if index < found => Ok(index),
            _ => Err(DeviceError::NoSuchIndex { found }),
        }
    }

    #[allow(dead_code, reason = "the CPU backends are always there")]
    pub(super) fn absent(&self) -> DeviceError {
        let needs = self.backend.needs;
        DeviceError::Absent { needs }
    }
}

macro_rules! backends {
    ($($name:literal if $feature:literal, $needs:literal => |$wanted:ident| $open:expr;)*) => {
        /// All backends, in the order in which they are listed.
        pub(super) const BACKENDS: &[Backend] = &[$(Backend {
            name: $name,
            feature: $feature,
            compiled: cfg!(feature = $feature),
            needs: $needs,
            open: {
                #[cfg(feature = $feature)]
                fn open($wanted: &Wanted<'_>) -> Result<Device, DeviceError> { $open }
                #[cfg(not(feature = $feature))]
                fn open(_: &Wanted<'_>) -> Result<Device, DeviceError> {
                    Err(DeviceError::NotCompiled { feature: $feature })
                }
                open
            },
        }),*];
    };
}

backends! {
    "flex" if "flex", "a CPU" => |wanted| {
        wanted.index_below(1)?;
        Ok(Device::flex())
    };
    "ndarray" if "ndarray", "a CPU" => |wanted| {
        wanted.index_below(1)?;
        #[allow(deprecated, reason = "kept for programs that depend on ndarray's numerics")]
        Ok(Device::ndarray())
    };
    "wgpu" if "wgpu", "a graphics driver: Vulkan (on Debian mesa-vulkan-drivers or the vendor's), Metal, \
        Direct3D 12 or OpenGL ES 3.1" => |wanted| super::wgpu::AUTO.open(wanted);
    "vulkan" if "wgpu", "a Vulkan driver (on Debian mesa-vulkan-drivers or the vendor's)"
        => |wanted| super::wgpu::VULKAN.open(wanted);
    "metal" if "wgpu", "macOS on a computer with Metal" => |wanted| super::wgpu::METAL.open(wanted);
    "webgpu" if "wgpu", "a browser with WebGPU; outside of one `wgpu` is what you want"
        => |wanted| super::wgpu::WEBGPU.open(wanted);
    "cuda" if "cuda", "an NVIDIA GPU with its driver (libcuda) and CUDA's run-time compiler (libnvrtc)"
        => |wanted| {
            let found = Device::enumerate(burn::tensor::DeviceType::Cuda).len();
            Ok(Device::cuda(wanted.index_below(found)?))
        };
    "rocm" if "rocm", "an AMD GPU with ROCm (libamdhip64)" => |wanted| {
        let found = Device::enumerate(burn::tensor::DeviceType::Rocm).len();
        Ok(Device::rocm(wanted.index_below(found)?))
    };
    "cpu" if "cpu", "a CPU for which CubeCL's LLVM makes code" => |wanted| {
        wanted.index_below(1)?;
        Ok(Device::cpu())
    };
    "tch" if "tch", "libtorch" => |wanted| {
        wanted.index_below(1)?;
        #[allow(deprecated, reason = "kept for programs that depend on libtorch's numerics")]
        Ok(Device::libtorch())
    };
    "remote" if "remote", "a Burn server that answers at the address" => |wanted| {
        super::remote::open_by_name(wanted.selector.unwrap_or_default())
    };
}

/// The order in which `auto` tries: GPUs by how well Burn serves them, then CPUs. A server is
/// never tried unasked.
pub(super) const BEST_FIRST: [&str; 10] = [
    "cuda", "rocm", "metal", "vulkan", "wgpu", "webgpu", "flex", "cpu", "ndarray", "tch",
];
