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
    /// The variant of the weights, such as `fp16` or `non_ema`; `None`: as
    /// [`Files::weights`](crate::Files::weights) chooses. One that is not there is an error.
    pub variant: Option<String>,
}

impl LoadOptions {
    /// f32 on `device`, the fastest way.
    pub fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            dtype: FloatDType::F32,
            weight_storage: WeightStorage::F32,
            variant: None,
        }
    }

    /// The same in precision `dtype`.
    pub fn in_precision(self, dtype: FloatDType) -> Self {
        Self { dtype, ..self }
    }
}
