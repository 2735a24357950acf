use std::sync::LazyLock;

use burn::tensor::Tensor;
use sd_gpu::Attention;

use super::Kernel;
use crate::layers::Linear;
use crate::layers::plain::SCORES;

/// Attention of `heads` heads that lie side by side in tokens of `[n, tokens, heads · width]`.
pub(in crate::layers) fn attention(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    causal: bool,
) -> Tensor<3> {
    let attention = Attention {
        query,
        key,
        value,
        heads,
        causal,
        scores: SCORES,
    };
    if *AT_ONCE {
        let refused = "SD_KERNELS_GPU=flash where there is no such kernel";
        return attention.at_once().expect(refused);
    }
    match super::has(Kernel::Flash, &attention.query) {
        true => attention.gather(),
        false => attention.separately(),
    }
}

/// True with `SD_KERNELS_GPU=flash` in the environment: no scores are stored, whatever that costs.
static AT_ONCE: LazyLock<bool> =
    LazyLock::new(|| std::env::var("SD_KERNELS_GPU").is_ok_and(|value| value == "flash"));

/// Attention of tokens to each other, by a layer that makes queries, keys and values side by side.
pub(in crate::layers) fn self_attention(joined: &Linear, x: Tensor<3>, heads: usize) -> Tensor<3> {
    let [query, key, value] = sd_gpu::products(x, joined.weight.val());
    attention(query, key, value, heads, false)
}
