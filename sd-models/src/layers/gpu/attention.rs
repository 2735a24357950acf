use burn::tensor::{DType, Tensor};

use crate::layers::plain::{self, SCORES};
use crate::layers::{Epilogue, Linear};

/// Attention of `heads` heads that lie side by side in tokens of `[n, tokens, heads · width]`.
pub(in crate::layers) fn attention(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    causal: bool,
) -> Tensor<3> {
    of_heads(split([query, key, value], heads), causal)
}

/// Attention of tokens to each other, by a layer that makes queries, keys and values side by side.
pub(in crate::layers) fn self_attention(joined: &Linear, x: Tensor<3>, heads: usize) -> Tensor<3> {
    let made = super::linear(joined, x, Epilogue::NONE);
    of_heads(sd_gpu::split_heads(made, heads), false)
}

/// [`attention`] by the kernels, whatever else there is.
pub(super) fn separate(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    causal: bool,
) -> Tensor<3> {
    by_scores(split([query, key, value], heads), causal)
}

fn split(tokens: [Tensor<3>; 3], heads: usize) -> [Tensor<4>; 3] {
    match heads {
        1 => tokens.map(|x| x.unsqueeze_dim(1)),
        _ => sd_gpu::split_three(tokens, heads),
    }
}

/// Attention of queries, keys and values, each `[n, heads, tokens, width]`, to
/// `[n, tokens, heads · width]`.
///
/// Where Burn measures its kernels, of which one stores no scores, it is left the choice.
fn of_heads([query, key, value]: [Tensor<4>; 3], causal: bool) -> Tensor<3> {
    if cfg!(feature = "autotune") && !causal {
        let [n, heads, tokens, width] = query.dims();
        let x = plain::of_heads(query, key, value, causal);
        return x.swap_dims(1, 2).reshape([n, tokens, heads * width]);
    }
    by_scores([query, key, value], causal)
}

/// Scores are f32 whatever the tokens are: q·kᵀ reaches 10⁵ before it is divided, and f16 ends at
/// 65504. What they become are shares of one, in the tokens' precision.
fn by_scores([query, key, value]: [Tensor<4>; 3], causal: bool) -> Tensor<3> {
    let [n, heads, queries, width] = query.dims();
    let (keys, dtype) = (key.dims()[2], query.dtype());
    let scale = 1.0 / (width as f64).sqrt();
    let attend = |query| {
        let scores = sd_gpu::product(query, key.clone(), true, DType::F32);
        let shares = sd_gpu::softmax(scores, scale, causal, dtype);
        sd_gpu::gather(shares, value.clone())
    };
    // A text's tokens are few, and those of a part would count from its own beginning.
    let at_once = (SCORES / (n * heads * keys).max(1)).max(1);
    if causal || at_once >= queries {
        return attend(query);
    }
    let parts = query.split(at_once, 2).into_iter().map(attend);
    Tensor::cat(parts.collect(), 1)
}
