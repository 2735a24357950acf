//! The layers by the kernels of `sd-kernels`, on the flex device in f32.
//!
//! To a network's code a picture is always `[n, channels, h, w]`. What the kernels make is stored
//! channels-last and only looks like that: it is `[n, h, w, channels]` in memory, permuted. The
//! next kernel permutes it back, which moves nothing, so from the first layer to the last no number
//! is transposed. Getting at the numbers moves nothing either: a flex tensor that nobody else
//! holds gives its buffer away.

mod norm;
mod packed;
mod pictures;
mod values;

pub(super) use norm::{group_norm, group_norm_rows, layer_norm, moments};
pub(super) use packed::Packed;
pub(super) use pictures::{concat_channels, copy_rows, duplicate, recycle};

use burn::tensor::Tensor;
use sd_kernels::{AttentionShape, Isa, Products, take_output};

use super::Input;
use values::{tensor, values};

/// Attention of `heads` heads that lie side by side in tokens of `[n, tokens, heads · width]`.
pub(super) fn attention(
    products: Products,
    query: Input<'_, 3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    is_causal: bool,
) -> Tensor<3> {
    let ([n, queries, width], device) = (query.get().dims(), query.get().device());
    let shape = AttentionShape {
        causal: is_causal,
        ..AttentionShape::new(n, heads, width / heads, queries, key.dims()[1])
    };
    let (k, v) = (values(key), values(value));
    query.read(|q| {
        let mut out = take_output(q.len());
        expect_shapes(sd_kernels::attention_by(
            products,
            Isa::best(),
            q,
            &k,
            &v,
            shape,
            &mut out,
        ));
        tensor(out, [n, queries, width], &device)
    })
}

/// The kernels check the sizes they are given; here these come from the tensors themselves.
pub(crate) fn expect_shapes<T>(result: sd_kernels::Result<T>) -> T {
    result.unwrap_or_else(|error| unreachable!("the sizes are the tensors' own: {error}"))
}
