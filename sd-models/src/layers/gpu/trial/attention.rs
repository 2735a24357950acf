//! Attention whose q·kᵀ is above f16's largest number.

use burn::tensor::Tensor;
use sd_gpu::{Attention, Unavailable};

use super::{Place, off};
use crate::layers::plain::SCORES;

/// Queries, keys, the width of a head; whether a token sees those behind it; the size of the numbers.
struct Case {
    tokens: [usize; 2],
    width: usize,
    causal: bool,
    size: f64,
}

/// How far three kernels are off: with heads of an odd width, and a text, whose tokens see those before.
pub(super) fn separately(place: &Place<'_>) -> f64 {
    let picture = Case {
        tokens: [37, 77],
        width: 5,
        causal: false,
        size: 256.0,
    };
    let text = Case {
        tokens: [9, 9],
        width: 5,
        causal: true,
        size: 2.0,
    };
    let off = |case: Case| case.off_by(place, Attention::separately);
    off(picture).max(off(text))
}

/// How far one kernel is off, where there is one for a shape that has all that it asks for but keys.
pub(super) fn at_once(place: &Place<'_>) -> Result<f64, Unavailable> {
    let case = Case {
        tokens: [128, 77],
        width: 64,
        causal: false,
        size: 32.0,
    };
    let mut lack = None;
    let off = case.off_by(place, |attention| {
        let query = attention.query.clone();
        attention.at_once().unwrap_or_else(|unavailable| {
            lack = Some(unavailable);
            query
        })
    });
    lack.map_or(Ok(off), Err)
}

impl Case {
    fn off_by(self, place: &Place<'_>, gather: impl FnOnce(Attention) -> Tensor<3>) -> f64 {
        let ([n, heads], width) = ([2, 3], self.width);
        let ([queries, keys], all) = (self.tokens, heads * width);
        let (q, qs) = place.numbers([n, queries, all], self.size, 0.1);
        let (k, ks) = place.numbers([n, keys, all], self.size, 0.2);
        let (v, vs) = place.numbers([n, keys, all], 1.0, 0.3);
        let found = gather(Attention {
            query: q,
            key: k,
            value: v,
            heads,
            causal: self.causal,
            scores: SCORES,
        });
        let mut expected = Vec::new();
        for i in 0..n {
            for j in 0..queries {
                let q = &qs[(i * queries + j) * all..][..all];
                let seen = if self.causal { j + 1 } else { keys };
                for head in 0..heads {
                    let at = |of: &[f64], t: usize, e: usize| {
                        of[(i * keys + t) * all + head * width + e]
                    };
                    let score = |t: usize| {
                        let dot: f64 = (0..width)
                            .map(|e| q[head * width + e] * at(&ks, t, e))
                            .sum();
                        dot / (width as f64).sqrt()
                    };
                    let scores: Vec<f64> = (0..seen).map(score).collect();
                    let largest = scores.iter().copied().fold(f64::MIN, f64::max);
                    let shares: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                    let sum: f64 = shares.iter().sum();
                    expected.extend((0..width).map(|e| {
                        let shared = shares.iter().enumerate();
                        shared.map(|(t, share)| share * at(&vs, t, e)).sum::<f64>() / sum
                    }));
                }
            }
        }
        off(found, &expected)
    }
}
