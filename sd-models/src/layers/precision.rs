//! What half precision cannot hold is computed in f32.

use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, FloatDType, Tensor};

use super::cpu::{self, runs_kernels};

/// Attention of `heads` heads that lie side by side in tokens of `[n, tokens, heads · width]`.
pub(crate) fn multi_head_attention(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    is_causal: bool,
) -> Tensor<3> {
    if runs_kernels(&query) {
        return cpu::attention(query, key, value, heads, is_causal);
    }
    let split = |x: Tensor<3>| {
        let [n, tokens, width] = x.dims();
        x.reshape([n, tokens, heads, width / heads]).swap_dims(1, 2)
    };
    let shape = query.dims();
    let x = attention(split(query), split(key), split(value), is_causal);
    x.swap_dims(1, 2).reshape(shape)
}

/// `softmax(q·kᵀ / √width)·v` of `[n, heads, tokens, width]`; with `is_causal` a token sees only
/// itself and those before it.
///
/// In f32 whatever the precision of the tokens: q·kᵀ reaches 10⁵ before it is divided, f16 ends at
/// 65504, and backends that have no fused kernel for a shape round it to the tokens' precision.
fn attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, is_causal: bool) -> Tensor<4> {
    let dtype = query.dtype();
    // A bias or a scale of our own would send GPU backends to a kernel that stores all scores.
    let options = AttentionModuleOptions {
        is_causal,
        ..AttentionModuleOptions::default()
    };
    let (query, key, value) = (to_f32(query), to_f32(key), to_f32(value));
    let x = burn::tensor::module::attention(query, key, value, None, None, options);
    from_f32(x, dtype)
}

pub(super) fn to_f32<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.dtype() == DType::F32 {
        x
    } else {
        x.cast(FloatDType::F32)
    }
}

pub(super) fn from_f32<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if dtype == DType::F32 {
        x
    } else {
        x.cast(dtype)
    }
}
