use burn::tensor::{Device, FloatDType};
use sd_kernels::WeightStorage;
use serde::{Deserialize, Serialize};

/// Treatment of a setting in a component's configuration that nobody here knows.
///
/// Notes of trainers and of programs that write such files never count as unknown. Neither do
/// settings that are known and not implemented: those are always refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownSettings {
    /// An error that names it, for it might change the picture.
    #[default]
    Refuse,
    /// A warning in the log; it is ignored, as diffusers does.
    Warn,
}

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
    /// Treatment of settings in `config.json` that nobody knows.
    pub unknown_settings: UnknownSettings,
}

impl LoadOptions {
    /// f32 on `device`, the fastest way.
    pub fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            dtype: FloatDType::F32,
            weight_storage: WeightStorage::F32,
            variant: None,
            unknown_settings: UnknownSettings::Refuse,
        }
    }

    /// The same in precision `dtype`.
    pub fn in_precision(self, dtype: FloatDType) -> Self {
        Self { dtype, ..self }
    }
}
