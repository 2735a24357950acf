use std::fmt;
use std::sync::Arc;

use burn::tensor::{DType, Device, FloatDType};
use sd_kernels::{Int8, Packing, Products, WeightStorage};
use serde::{Deserialize, Serialize};

use crate::layers::has_kernels;

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

/// The storage and products of a layer of that name, if they are its own.
type OfLayer = dyn Fn(&str) -> Option<Packing> + Send + Sync;

/// Storage and products of single layers, to measure what each kind of them loses by fewer bits, or
/// to spare the most sensitive ones.
#[derive(Clone)]
pub struct LayerPacking(Arc<OfLayer>);

impl LayerPacking {
    /// What `of` says of a layer, whose name is that of its tensors in the network's checkpoint
    /// (`mid_block.attentions.0.transformer_blocks.0.attn1.to_q`) without `.weight`; what it says
    /// nothing of is packed as all are. An attention itself, which has no weights, is asked for as its
    /// layer `products` (`….attn1.products`).
    pub fn new(of: impl Fn(&str) -> Option<Packing> + Send + Sync + 'static) -> Self {
        Self(Arc::new(of))
    }
}

impl fmt::Debug for LayerPacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LayerPacking(..)")
    }
}

/// The device, precision and memory that a network is loaded with.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The device it computes on.
    pub device: Device,
    /// The precision it computes in; the file may hold any.
    pub dtype: FloatDType,
    /// What layers and attention multiply with on the flex device in f32: products of bf16 with sums
    /// of f32 where the processor has them; what lies between, normalisations, softmax and residuals
    /// stay f32. Linear layers' of int8 beside these ([`with_int8`](Self::with_int8)). Elsewhere of
    /// no consequence.
    pub products: Products,
    /// The storage of weights. Of consequence only on the flex device in f32: elsewhere weights are
    /// held in `dtype`.
    pub weight_storage: WeightStorage,
    /// Layers with another storage and other products than these, of consequence where these are;
    /// `None`: all are alike.
    pub layers: Option<LayerPacking>,
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
            products: Products::F32,
            weight_storage: WeightStorage::F32,
            layers: None,
            variant: None,
            unknown_settings: UnknownSettings::Refuse,
        }
    }

    /// The same in precision `dtype`, by this workspace's kernels where there are such: bf16 on the
    /// flex device is f32 with [`products`](Self::products) of bf16, or where the processor has none
    /// f32. Int8 beside these stays.
    #[must_use]
    pub fn by_kernels(self, dtype: FloatDType) -> Self {
        let int8 = self.products.int8();
        let in_f32 = Self {
            products: Products::F32.with_int8(int8),
            ..self.in_precision(FloatDType::F32)
        };
        if dtype == FloatDType::BF16 && has_kernels(&in_f32.device, DType::F32) {
            Self {
                products: Products::bf16().unwrap_or_default().with_int8(int8),
                ..in_f32
            }
        } else {
            in_f32.in_precision(dtype)
        }
    }

    /// The same with linear layers, gated ones and convolutions in int8 where the processor has
    /// instructions for that (for 3×3 convolutions AMX), but for layers whose weights lose much by it
    /// ([`PackedMatrix`](sd_kernels::PackedMatrix) has the rule). Their inputs are rounded row by row, or
    /// before a 3×3 convolution picture by picture, while the network computes.
    #[must_use]
    pub fn with_int8(self) -> Self {
        Self {
            products: self.products.with_int8(Int8::best()),
            ..self
        }
    }

    /// The layout of the packed weight of the layer of that name.
    pub(crate) fn packing(&self, layer: &str) -> Packing {
        let own = self.layers.as_ref().and_then(|of| (of.0)(layer));
        own.unwrap_or(Packing {
            storage: self.weight_storage,
            products: self.products,
        })
    }

    /// The same in precision `dtype`.
    pub fn in_precision(self, dtype: FloatDType) -> Self {
        Self { dtype, ..self }
    }
}
