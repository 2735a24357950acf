//! Devices and precisions that things are measured in.

use sd_pipeline::{Device, FloatDType, devices};

use crate::Harness;

/// Names the devices to measure on, with commas between, for example `flex,ndarray,wgpu:cpu`.
const DEVICES: &str = "SD_BENCH_DEVICES";

/// A device and a precision.
#[derive(Debug, Clone)]
pub struct Place {
    name: String,
    device: Device,
    dtype: FloatDType,
}

impl Place {
    /// `dtype` on a device that goes by `name` in the results.
    pub fn new(name: impl Into<String>, device: &Device, dtype: FloatDType) -> Self {
        Self {
            name: name.into(),
            device: device.clone(),
            dtype,
        }
    }

    /// The device that computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The precision of the computation.
    pub fn dtype(&self) -> FloatDType {
        self.dtype
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dtype = format!("{:?}", self.dtype).to_lowercase();
        write!(f, "{}/{dtype}", self.name)
    }
}

/// Every backend that is compiled in and runs here, in each of f32, f16 and bf16 that it computes
/// in; or the devices that the environment variable `SD_BENCH_DEVICES` names. Servers and software
/// adapters are only in the second list. What the harness's filter leaves out is not opened, what
/// cannot be opened is printed with the reason.
pub fn places(harness: &Harness) -> Vec<Place> {
    let names: Vec<String> = match std::env::var(DEVICES) {
        Ok(list) => list.split(',').map(|name| name.trim().into()).collect(),
        Err(_) => {
            let compiled = devices::names().into_iter();
            let local = compiled.filter(|name| *name != "remote");
            local.map(String::from).collect()
        }
    };
    let wanted = harness.devices_selected(&names);
    wanted.into_iter().flat_map(in_each_precision).collect()
}

fn in_each_precision(name: &str) -> Vec<Place> {
    let device = match devices::open(name) {
        Ok(device) => device,
        Err(error) => {
            println!("SKIPPED {error}");
            return Vec::new();
        }
    };
    let dtypes = [FloatDType::F32, FloatDType::F16, FloatDType::BF16].into_iter();
    let supported = dtypes.filter(|dtype| device.supports_dtype(*dtype));
    supported
        .map(|dtype| Place::new(name, &device, dtype))
        .collect()
}
