use burn::tensor::Tensor;
use burn::tensor::ops::AttentionModuleOptions;

use super::{from_f32, to_f32};

/// Attention of `heads` heads that lie side by side in tokens of `[n, tokens, heads · width]`.
pub(in crate::layers) fn attention(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    is_causal: bool,
) -> Tensor<3> {
    let split = |x: Tensor<3>| {
        let [n, tokens, width] = x.dims();
        x.reshape([n, tokens, heads, width / heads]).swap_dims(1, 2)
    };
    let shape = query.dims();
    let x = of_heads(split(query), split(key), split(value), is_causal);
    x.swap_dims(1, 2).reshape(shape)
}

/// Scores that may be in memory at once: 2²⁵ in f32 are 128 MiB, the largest buffer that every wgpu
/// adapter binds. A picture of 1024×1024 has 2³² of them in one layer of the U-Net, and a backend
/// without a fused kernel for a shape would store them all, more than once.
pub(crate) const SCORES: usize = 1 << 25;

/// `softmax(q·kᵀ / √width)·v` of `[n, heads, tokens, width]`; with `is_causal` a token sees only
/// itself and those before it.
///
/// In f32 whatever the precision of the tokens: q·kᵀ reaches 10⁵ before it is divided, f16 ends at
/// 65504, and backends that have no fused kernel for a shape round it to the tokens' precision.
fn of_heads(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, is_causal: bool) -> Tensor<4> {
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

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{DType, Device, TensorData};

    use super::*;

    /// Numbers from -1 to 1 that look random.
    fn tokens(shape: [usize; 4], phase: f64) -> Tensor<4> {
        let value = |i: usize| (f64::sin(i as f64 * 12.9898 + phase) * 43758.5453).fract() as f32;
        let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
        let data = TensorData::new(values, shape);
        Tensor::from_data(data, (&Device::flex(), DType::F32))
    }

    fn values(x: Tensor<4>) -> Vec<f64> {
        let values = x.try_into_vec_as::<f32>().unwrap();
        values.into_iter().map(f64::from).collect()
    }

    /// Vaswani et al. 2017, equation 1, in f64.
    fn reference(query: &Tensor<4>, key: &Tensor<4>, value: &Tensor<4>) -> Vec<f64> {
        let ([n, heads, tokens, width], keys) = (query.dims(), key.dims()[2]);
        let (q, k, v) = (
            values(query.clone()),
            values(key.clone()),
            values(value.clone()),
        );
        let mut out = Vec::new();
        for head in 0..n * heads {
            let (k, v) = (&k[head * keys * width..], &v[head * keys * width..]);
            for query in q[head * tokens * width..][..tokens * width].chunks(width) {
                let score = |key: &[f64]| {
                    let dot: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                    (dot / (width as f64).sqrt()).exp()
                };
                let scores: Vec<f64> = k.chunks(width).take(keys).map(score).collect();
                let all: f64 = scores.iter().sum();
                out.extend((0..width).map(|i| {
                    let weighted = scores.iter().enumerate();
                    weighted.map(|(j, s)| s * v[j * width + i]).sum::<f64>() / all
                }));
            }
        }
        out
    }

    #[test]
    fn attention_of_some_queries_at_a_time_is_attention_of_all() {
        for (n, heads, queries, keys, width) in
            [(1, 1, 5, 7, 3), (2, 3, 33, 9, 8), (1, 2, 64, 64, 5)]
        {
            let query = tokens([n, heads, queries, width], 0.1);
            let key = tokens([n, heads, keys, width], 0.2);
            let value = tokens([n, heads, keys, width], 0.3);
            let expected = reference(&query, &key, &value);
            // None fits, one fits, some do and leave a rest, all do.
            for most in [0, n * heads * keys, n * heads * keys * 12, usize::MAX] {
                let (query, key, value) = (query.clone(), key.clone(), value.clone());
                let found = by_queries(query, key, value, false, most);
                assert_eq!(found.dims(), [n, heads, queries, width]);
                let pairs = values(found).into_iter().zip(&expected);
                let worst = pairs.map(|(f, e)| (f - e).abs()).fold(0.0, f64::max);
                assert!(worst < 1e-6, "{worst:e} with {most} scores at once");
            }
        }
    }
}
