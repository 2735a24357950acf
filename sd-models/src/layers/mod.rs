//! The layers of the networks, with the field names and weight layouts of PyTorch checkpoints.
//!
//! Keeping torch's names (`weight`, `bias`) and layouts (a linear weight is `[out, in]`) means a
//! checkpoint's tensors go into the modules as they are: no renaming, no transposition.

mod attention;
mod attention_products;
mod beside;
mod conv;
mod cpu;
mod dispatch;
mod embedding;
mod epilogue;
mod feed_forward;
#[cfg(feature = "cubecl")]
mod gpu;
mod input;
mod linear;
mod mix;
mod norm;
mod pack;
mod plain;
mod resample;
mod resnet;
mod sides;
mod stream;
mod transformer;

pub use attention::{Attention, AttentionConfig, KeyValue};
pub(crate) use attention::{to_picture, to_tokens};
pub(crate) use attention_products::AttentionProducts;
pub(crate) use beside::{Beside, TokenShares};
pub(crate) use conv::Scale;
pub use conv::{Conv2d, Padding};
pub(crate) use cpu::expect_shapes;
pub(crate) use dispatch::{
    Measured, Normed, Rows, concat_channels, concat_rows, conv2d_strip, copy_rows, duplicate,
    group_norm_rows, has_kernels, moments, multi_head_attention, recycle, stored, stored_dtype,
};
pub(crate) use embedding::Embedding;
pub use epilogue::Epilogue;
pub(crate) use feed_forward::Dropout;
use feed_forward::{FeedForward, Geglu};
pub use input::Input;
pub use linear::Linear;
pub(crate) use mix::{SideMap, mix};
pub use norm::{GroupNorm, LayerNorm};
pub(crate) use pack::{Pack, PackLayer, Unpacked, join, pack_fields, pack_itself};
pub(crate) use plain::SCORES;
pub(crate) use resample::{Downsample2D, Upsample2D};
pub use resnet::TimeEffect;
pub(crate) use resnet::{ResnetBlock2D, ResnetConfig};
pub(crate) use sides::{Addition, AnySide, Factors, Side, Sides};
pub(crate) use stream::Stream;
pub(crate) use transformer::{BlockContext, Transformer2DModel, TransformerConfig};

use burn::module::Param;
use burn::tensor::{Device, Shape, Tensor};

/// A parameter of the given shape that takes no memory until weights are loaded into it.
pub(crate) fn parameter<const D: usize>(shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Param::uninitialized(
        burn::module::ParamId::new(),
        move |device, _| Tensor::zeros(shape, device),
        device.clone(),
        false,
        Shape::from(shape),
    )
}
