//! Single layers, for tests that give them numbers which no network's tests do. No part of the
//! crate's interface: they may change with every version.

pub use crate::layers::{
    Attention, AttentionConfig, Conv2d, Epilogue, GroupNorm, Input, KeyValue, LayerNorm, Linear,
    Padding,
};
pub use sd_kernels::Activation;
