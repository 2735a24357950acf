//! Helpers of the kernel tests: numbers to compute with and a way to compare them.
#![allow(dead_code)]

use proptest::test_runner::Config;
use sd_kernels::Isa;

/// So many cases of a property, or as many as `PROPTEST_CASES` says: a few are enough to look for
/// memory errors, where each takes a hundred times as long.
pub(crate) fn cases(cases: u32) -> Config {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => Config::default(),
        None => Config::with_cases(cases),
    }
}

/// Deterministic values in [-1, 1).
pub(crate) fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// Runs `f` for every instruction set of this processor.
pub(crate) fn each_isa(mut f: impl FnMut(Isa)) {
    for isa in Isa::all() {
        f(isa);
    }
}

/// Panics where an element of `found` is further than `tolerance` from `expected`.
#[track_caller]
pub(crate) fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let mut worst = (0.0f64, 0);
    for (i, (&x, &y)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(x) - y).abs();
        // A NaN is worse than any number.
        if off.is_nan() || off > worst.0 {
            worst = (if off.is_nan() { f64::INFINITY } else { off }, i);
        }
    }
    let (off, i) = worst;
    assert!(
        off <= tolerance,
        "{what}: off by {off:e} at {i}: {} instead of {}",
        found[i],
        expected[i]
    );
}

/// erf to 1e-15, by its Taylor series or the continued fraction of erfc.
pub(crate) fn erf(x: f64) -> f64 {
    let z = x.abs();
    let value = if z < 3.0 {
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            let n = f64::from(n);
            term *= -z * z / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let mut fraction = z;
        for k in (1..200).rev() {
            fraction = z + f64::from(k) / 2.0 / fraction;
        }
        1.0 - (-z * z).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

pub(crate) fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

pub(crate) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

pub(crate) fn quick_gelu(x: f64) -> f64 {
    x / (1.0 + (-1.702 * x).exp())
}
