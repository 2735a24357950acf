use burn::module::Module;
use burn::tensor::{DType, Device, FloatDType, Tensor};
use sd_core::Result;

use super::config::IpAdapterConfig;
use super::projection::ImageProjection;
use crate::layers::{Epilogue, KeyValue, Linear, pack_fields};
use crate::{ClipVisionModelWithProjection, ClipVisionOutput};

/// An IP-Adapter's own networks: what makes tokens of a picture, and keys and values of these.
///
/// Fields are named as in its file.
#[derive(Module, Debug)]
pub struct IpAdapterModel {
    image_proj: ImageProjection,
    /// By the numbers of all layers of attention; those of self-attention, which are even, have
    /// nothing.
    ip_adapter: Vec<Option<ImageKeyValue>>,
}

/// Keys and values in one layer of cross-attention.
#[derive(Module, Debug)]
struct ImageKeyValue {
    to_k_ip: Linear,
    to_v_ip: Linear,
}

impl IpAdapterModel {
    /// A model whose weights are still to be loaded; it takes no memory until then.
    pub fn new(config: &IpAdapterConfig, device: &Device) -> Self {
        let width = config.context_width;
        let linear = |outputs: usize| Linear::new(width, outputs, false, device);
        let layers = config.layers.iter().flat_map(|outputs| {
            let key_value = ImageKeyValue {
                to_k_ip: linear(*outputs),
                to_v_ip: linear(*outputs),
            };
            [None, Some(key_value)]
        });
        Self {
            image_proj: ImageProjection::new(config, device),
            ip_adapter: layers.collect(),
        }
    }

    /// Tokens of each of `n` pictures that an image encoder saw, `[n, tokens, context width]`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](sd_core::Error::InvalidArgument) for an output without the states of
    /// two layers.
    pub fn tokens(&self, seen: ClipVisionOutput) -> Result<Tensor<3>> {
        self.image_proj.forward(seen)
    }

    /// Tokens of no picture, `[1, tokens, context width]`, as the negative prompt has them: those of a
    /// vector of zeros for a plain adapter, else those of a picture whose pixels are all the mean of
    /// the encoder's training.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn absent_tokens(
        &self,
        encoder: &ClipVisionModelWithProjection,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Tensor<3>> {
        let (side, dtype) = (encoder.config().image_size, DType::from(dtype));
        match &self.image_proj {
            ImageProjection::Linear(projection) => {
                let width = encoder.config().projection_dim;
                Ok(projection.forward(Tensor::zeros([1, width], (device, dtype))))
            }
            _ => {
                let pixels = Tensor::zeros([1, 3, side, side], (device, DType::F32));
                self.tokens(encoder.forward(pixels)?)
            }
        }
    }

    /// Keys and values of `tokens` `[1, tokens, context width]`, in each layer of
    /// [`IpAdapterConfig::layers`].
    pub fn key_values(&self, tokens: &Tensor<3>) -> Vec<KeyValue> {
        let layers = self.ip_adapter.iter().flatten();
        let made = layers.map(|layer| KeyValue {
            key: layer.to_k_ip.forward(tokens.clone(), Epilogue::NONE),
            value: layer.to_v_ip.forward(tokens.clone(), Epilogue::NONE),
        });
        made.collect()
    }
}

pack_fields!(IpAdapterModel: image_proj, ip_adapter);
pack_fields!(ImageKeyValue: to_k_ip, to_v_ip);
