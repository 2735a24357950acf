//! The layers of the networks, with the field names and weight layouts of PyTorch checkpoints.
//!
//! Keeping torch's names (`weight`, `bias`) and layouts (a linear weight is `[out, in]`) means a
//! checkpoint's tensors go into the modules as they are: no renaming, no transposition.

mod attention;
mod conv;
mod cpu;
mod embedding;
mod feed_forward;
mod linear;
mod norm;
mod pack;
mod precision;
mod resample;
mod resnet;
mod strips;
mod transformer;

pub use attention::{Attention, AttentionConfig, KeyValue};
pub use conv::{Conv2d, Padding};
pub(crate) use cpu::{concat_channels, duplicate, has_kernels};
pub use embedding::Embedding;
pub use feed_forward::{Dropout, FeedForward, Geglu};
pub use linear::Linear;
pub use norm::{GroupNorm, LayerNorm};
pub(crate) use pack::{Pack, PackLayer, Unpacked, join, pack_fields, pack_itself};
pub(crate) use precision::{SCORES, multi_head_attention};
pub use resample::{Downsample2D, Upsample2D};
pub use resnet::{ResnetBlock2D, ResnetConfig, TimeEffect};
pub(crate) use strips::{Output, StripConv, Strips, ranges};
pub use transformer::{BasicTransformerBlock, BlockContext, Transformer2DModel, TransformerConfig};

use burn::module::Param;
use burn::tensor::{Device, Shape, Tensor};

/// A parameter of the given shape that takes no memory until weights are loaded into it.
fn parameter<const D: usize>(shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Param::uninitialized(
        burn::module::ParamId::new(),
        move |device, _| Tensor::zeros(shape, device),
        device.clone(),
        false,
        Shape::from(shape),
    )
}
