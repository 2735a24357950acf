use burn::tensor::{Device, FloatDType};
use sd_kernels::Memory;

/// How a network is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where it computes.
    pub device: Device,
    /// The precision it computes in; the file may hold any.
    pub dtype: FloatDType,
    /// Whether weights that the file holds in half precision stay so in memory. Of consequence
    /// only on the flex device in f32: elsewhere weights are held in `dtype`.
    pub memory: Memory,
}

impl LoadOptions {
    /// f32 on `device`, the fastest way.
    pub fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            dtype: FloatDType::F32,
            memory: Memory::Fastest,
        }
    }

    /// The same in precision `dtype`.
    pub fn in_precision(self, dtype: FloatDType) -> Self {
        Self { dtype, ..self }
    }
}
