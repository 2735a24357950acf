use burn::tensor::{Device, FloatDType};
use sd_kernels::WeightStorage;

/// The device, precision and memory that a network is loaded with.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The device it computes on.
    pub device: Device,
    /// The precision it computes in; the file may hold any.
    pub dtype: FloatDType,
    /// The storage of weights that the file holds in half precision. Of consequence only on the
    /// flex device in f32: elsewhere weights are held in `dtype`.
    pub weight_storage: WeightStorage,
}

impl LoadOptions {
    /// f32 on `device`, the fastest way.
    pub fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            dtype: FloatDType::F32,
            weight_storage: WeightStorage::F32,
        }
    }

    /// The same in precision `dtype`.
    pub fn in_precision(self, dtype: FloatDType) -> Self {
        Self { dtype, ..self }
    }
}
