//! What half precision cannot hold is computed in f32.

use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, FloatDType, Tensor};

/// `softmax(q·kᵀ / √width)·v` of `[n, heads, tokens, width]`; with `is_causal` a token sees only
/// itself and those before it.
///
/// In f32 whatever the precision of the tokens: q·kᵀ reaches 10⁵ before it is divided, f16 ends at
/// 65504, and backends that have no fused kernel for a shape round it to the tokens' precision.
pub(crate) fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    is_causal: bool,
) -> Tensor<4> {
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
