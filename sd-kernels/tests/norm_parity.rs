//! Normalisations and activations against the definitions in f64.

mod common;

use common::{assert_close, each_isa, gelu, quick_gelu, silu, values};
use proptest::prelude::*;
use sd_kernels::{Activation, GroupNorm, Isa, activate, group_norm, layer_norm};

fn moments(x: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = x.clone().count() as f64;
    let mean = x.clone().sum::<f64>() / count;
    (
        mean,
        x.map(|x| (x - mean) * (x - mean)).sum::<f64>() / count,
    )
}

fn check_group(n: usize, pixels: usize, size: usize, groups: usize, offset: f32, tolerance: f64) {
    let channels = size * groups;
    let mut x = values(1, n * pixels * channels);
    x.iter_mut().for_each(|x| *x += offset);
    let (weight, bias) = (values(2, channels), values(3, channels));
    let mut expected = vec![0.0; x.len()];
    for b in 0..n {
        for g in 0..groups {
            let at: Vec<usize> = (0..pixels)
                .flat_map(|p| (0..size).map(move |c| (b * pixels + p) * channels + g * size + c))
                .collect();
            let (mean, variance) = moments(at.iter().map(|&i| f64::from(x[i])));
            for i in at {
                let y = (f64::from(x[i]) - mean) / (variance + 1e-5).sqrt();
                let c = i % channels;
                expected[i] = silu(y * f64::from(weight[c]) + f64::from(bias[c]));
            }
        }
    }
    each_isa(|isa| {
        let norm = GroupNorm {
            weight: &weight,
            bias: &bias,
            groups,
            epsilon: 1e-5,
            activation: Activation::Silu,
        };
        let mut out = vec![f32::NAN; x.len()];
        group_norm(isa, &x, n, pixels, norm, &mut out).unwrap();
        let what = format!("{} {n}×{pixels}×{groups}·{size} at {offset}", isa.name());
        assert_close(&what, &out, &expected, tolerance);
    });
}

fn check_layer(rows: usize, width: usize) {
    let x = values(1, rows * width);
    let (weight, bias) = (values(2, width), values(3, width));
    let mut expected = Vec::new();
    for row in x.chunks_exact(width) {
        let (mean, variance) = moments(row.iter().map(|&x| f64::from(x)));
        for (c, &x) in row.iter().enumerate() {
            let y = (f64::from(x) - mean) / (variance + 1e-5).sqrt();
            expected.push(y * f64::from(weight[c]) + f64::from(bias[c]));
        }
    }
    each_isa(|isa| {
        let mut out = vec![f32::NAN; x.len()];
        layer_norm(isa, &x, rows, &weight, &bias, 1e-5, &mut out).unwrap();
        assert_close(
            &format!("{} {rows}×{width}", isa.name()),
            &out,
            &expected,
            2e-6,
        );
    });
}

#[test]
fn groups_of_the_networks() {
    for (n, pixels, size, groups) in [
        (2, 64, 10, 32),
        (1, 300, 4, 32),
        (3, 35, 40, 32),
        (1, 1, 2, 3),
    ] {
        check_group(n, pixels, size, groups, 0.0, 3e-6);
    }
}

/// A mean a thousand times the deviation: sums of x² in f32 would leave nothing of the variance.
/// The rest is the rounding of x · factor + summand, a thousandfold of f32's.
#[test]
fn groups_far_from_zero() {
    check_group(2, 4096, 10, 4, 500.0, 2e-4);
}

#[test]
fn layers_of_the_networks() {
    for (rows, width) in [(1, 1), (77, 768), (130, 320), (5, 1280), (3, 37)] {
        check_layer(rows, width);
    }
}

#[test]
fn activations_over_their_range() {
    let x: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.005 + 0.001).collect();
    type Function = fn(f64) -> f64;
    let functions: [(Activation, Function); 4] = [
        (Activation::None, |x| x),
        (Activation::Silu, silu),
        (Activation::Gelu, gelu),
        (Activation::QuickGelu, quick_gelu),
    ];
    each_isa(|isa| {
        for (activation, function) in functions {
            let mut out = vec![f32::NAN; x.len()];
            activate(isa, activation, &x, &mut out).unwrap();
            for (&x, &y) in x.iter().zip(&out) {
                let exact = function(f64::from(x));
                let off = (f64::from(y) - exact).abs();
                // Relative to the result where that is a normal size, else to x.
                assert!(
                    off <= 4e-7 * exact.abs() + 2e-8 * f64::from(x).abs(),
                    "{} {activation:?}({x}) = {y}, not {exact}",
                    isa.name()
                );
            }
        }
    });
}

#[test]
fn activations_at_the_ends_of_f32() {
    each_isa(|isa| {
        for activation in [Activation::Silu, Activation::Gelu, Activation::QuickGelu] {
            let mut out = [0.0; 4];
            activate(
                isa,
                activation,
                &[f32::MAX, f32::MIN, f32::NAN, 0.0],
                &mut out,
            )
            .unwrap();
            assert_eq!(out[0], f32::MAX, "{} {activation:?}", isa.name());
            assert!(
                out[1].is_finite() && out[2].is_nan() && out[3] == 0.0,
                "{} {activation:?} {out:?}",
                isa.name()
            );
        }
    });
}

#[test]
fn what_does_not_fit_is_an_error() {
    let isa = Isa::best();
    let norm = GroupNorm {
        weight: &[1.0; 6],
        bias: &[0.0; 6],
        groups: 4,
        epsilon: 1e-5,
        activation: Activation::None,
    };
    let mut out = [0.0; 6];
    let error = group_norm(isa, &[0.0; 6], 1, 1, norm, &mut out).unwrap_err();
    assert_eq!(
        error.to_string(),
        "groups is 4; a divisor of the number of channels"
    );
    assert!(
        group_norm(
            isa,
            &[0.0; 6],
            1,
            1,
            GroupNorm { groups: 0, ..norm },
            &mut out
        )
        .is_err()
    );
    assert!(
        group_norm(
            isa,
            &[0.0; 6],
            1,
            2,
            GroupNorm { groups: 2, ..norm },
            &mut out
        )
        .is_err()
    );
    assert!(layer_norm(isa, &[0.0; 6], 2, &[1.0; 3], &[0.0; 2], 1e-5, &mut out).is_err());
    assert!(layer_norm(isa, &[0.0; 6], 2, &[1.0; 3], &[0.0; 3], 1e-5, &mut out[1..]).is_err());
    assert!(activate(isa, Activation::Silu, &[0.0; 6], &mut out[1..]).is_err());
}

proptest! {
    #![proptest_config(common::cases(48))]

    #[test]
    fn groups_of_any_size(n in 1usize..4, pixels in 1usize..200, size in 1usize..20, groups in 1usize..12) {
        check_group(n, pixels, size, groups, 0.0, 1e-5);
    }

    #[test]
    fn layers_of_any_size(rows in 1usize..100, width in 1usize..200) {
        check_layer(rows, width);
    }
}
