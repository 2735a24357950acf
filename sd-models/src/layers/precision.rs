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

/// Scores that may be in memory at once: 2²⁵ in f32 are 128 MiB, the largest buffer that every wgpu
/// adapter binds. A picture of 1024×1024 has 2³² of them in one layer of the U-Net, and a backend
/// without a fused kernel for a shape would store them all, more than once.
const SCORES: usize = 1 << 25;

/// `softmax(q·kᵀ / √width)·v` of `[n, heads, tokens, width]`; with `is_causal` a token sees only
/// itself and those before it.
///
/// In f32 whatever the precision of the tokens: q·kᵀ reaches 10⁵ before it is divided, f16 ends at
/// 65504, and backends that have no fused kernel for a shape round it to the tokens' precision.
fn attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, is_causal: bool) -> Tensor<4> {
    let dtype = query.dtype();
    let (query, key, value) = (to_f32(query), to_f32(key), to_f32(value));
    // A text's tokens are few, and those of a part would count from its own beginning.
    let scores = if is_causal { usize::MAX } else { SCORES };
    from_f32(by_queries(query, key, value, is_causal, scores), dtype)
}

/// Attention, as many queries at a time as make `most` scores: each query's result is its own.
fn by_queries(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    is_causal: bool,
    most: usize,
) -> Tensor<4> {
    // A bias or a scale of our own would send GPU backends to a kernel that stores all scores.
    let options = AttentionModuleOptions {
        is_causal,
        ..AttentionModuleOptions::default()
    };
    let attend = |query| {
        let (key, value) = (key.clone(), value.clone());
        burn::tensor::module::attention(query, key, value, None, None, options)
    };
    let [n, heads, tokens, _] = query.dims();
    let at_once = (most / (n * heads * key.dims()[2]).max(1)).max(1);
    if at_once >= tokens {
        return attend(query);
    }
    // A power of two, because fused kernels want their blocks of queries full.
    let at_once = 1 << at_once.ilog2();
    let parts = query.split(at_once, 2).into_iter().map(attend);
    Tensor::cat(parts.collect(), 2)
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
