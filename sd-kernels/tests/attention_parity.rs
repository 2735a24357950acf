//! Attention against the definition in f64.

mod common;

use common::{assert_close, each_isa, values};
use proptest::prelude::*;
use sd_kernels::{AttentionShape, Isa, attention};

struct Case {
    shape: AttentionShape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new(shape: AttentionShape, sharpness: f32) -> Self {
        let width = shape.heads * shape.head_size;
        let mut q = values(1, shape.n * shape.queries * width);
        q.iter_mut().for_each(|x| *x *= sharpness);
        Self {
            shape,
            q,
            k: values(2, shape.n * shape.keys * width),
            v: values(3, shape.n * shape.keys * width),
        }
    }

    fn expected(&self) -> Vec<f64> {
        let s = &self.shape;
        let width = s.heads * s.head_size;
        let mut out = vec![0.0; self.q.len()];
        for n in 0..s.n {
            for head in 0..s.heads {
                for i in 0..s.queries {
                    let at = |tokens: usize, token: usize| {
                        (n * tokens + token) * width + head * s.head_size
                    };
                    let q = &self.q[at(s.queries, i)..][..s.head_size];
                    let seen = if s.causal { s.keys.min(i + 1) } else { s.keys };
                    let scores: Vec<f64> = (0..seen)
                        .map(|j| {
                            let k = &self.k[at(s.keys, j)..][..s.head_size];
                            let dot: f64 = q
                                .iter()
                                .zip(k)
                                .map(|(&a, &b)| f64::from(a) * f64::from(b))
                                .sum();
                            dot * f64::from(s.scale)
                        })
                        .collect();
                    let highest = scores.iter().copied().fold(f64::MIN, f64::max);
                    let sum: f64 = scores.iter().map(|x| (x - highest).exp()).sum();
                    for (j, score) in scores.iter().enumerate() {
                        let weight = (score - highest).exp() / sum;
                        for c in 0..s.head_size {
                            out[at(s.queries, i) + c] +=
                                weight * f64::from(self.v[at(s.keys, j) + c]);
                        }
                    }
                }
            }
        }
        out
    }

    fn found(&self, isa: Isa) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.q.len()];
        attention(isa, &self.q, &self.k, &self.v, self.shape, &mut out).unwrap();
        out
    }

    fn check(&self) {
        let expected = self.expected();
        each_isa(|isa| {
            let what = format!("{} {:?}", isa.name(), self.shape);
            assert_close(&what, &self.found(isa), &expected, 2e-6);
        });
    }
}

#[test]
fn every_head_size_of_the_networks() {
    for head_size in [40, 64, 80, 160, 512] {
        for (queries, keys) in [(1, 1), (33, 77), (150, 230)] {
            Case::new(AttentionShape::new(2, 3, head_size, queries, keys), 1.0).check();
        }
    }
}

#[test]
fn sharp_softmax_over_several_blocks() {
    Case::new(AttentionShape::new(1, 2, 40, 70, 1000), 8.0).check();
}

#[test]
fn causal_hides_later_keys() {
    for (head_size, tokens) in [(64, 77), (16, 300), (5, 1)] {
        let shape = AttentionShape {
            causal: true,
            ..AttentionShape::new(2, 2, head_size, tokens, tokens)
        };
        Case::new(shape, 3.0).check();
    }
}

#[test]
fn any_number_of_threads() {
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| Case::new(AttentionShape::new(3, 5, 24, 200, 190), 1.0).check());
    }
}

/// A NaN must not come out as a number.
#[test]
fn not_a_number_stays_one() {
    let mut case = Case::new(AttentionShape::new(1, 1, 16, 40, 300), 1.0);
    case.q[16 * 7] = f32::NAN;
    each_isa(|isa| {
        let out = case.found(isa);
        assert!(
            out[16 * 7..16 * 8].iter().all(|x| x.is_nan()),
            "{}",
            isa.name()
        );
        assert!(
            out[..16 * 7].iter().all(|x| x.is_finite()),
            "{}",
            isa.name()
        );
    });
}

#[test]
fn what_does_not_fit_is_an_error() {
    let shape = AttentionShape::new(1, 2, 8, 3, 0);
    let error = attention(Isa::best(), &[0.0; 48], &[], &[], shape, &mut [0.0; 48]).unwrap_err();
    assert_eq!(error.to_string(), "keys is 0; at least 1");
    let shape = AttentionShape::new(1, 2, 8, 3, 1);
    let (q, k) = ([0.0; 48], [0.0; 16]);
    assert!(attention(Isa::best(), &q, &k, &k[1..], shape, &mut [0.0; 48]).is_err());
    assert!(attention(Isa::best(), &q, &k, &k, shape, &mut [0.0; 47]).is_err());
    assert!(attention(Isa::best(), &q[1..], &k, &k, shape, &mut [0.0; 48]).is_err());
}

proptest! {
    #![proptest_config(common::cases(40))]

    #[test]
    fn attention_of_any_size(
        (n, heads, head_size) in (1usize..3, 1usize..4, 1usize..90),
        (queries, keys) in (1usize..140, 1usize..260),
        causal in any::<bool>(),
    ) {
        let keys = if causal { queries } else { keys };
        let shape = AttentionShape { causal, ..AttentionShape::new(n, heads, head_size, queries, keys) };
        Case::new(shape, 2.0).check();
    }
}
