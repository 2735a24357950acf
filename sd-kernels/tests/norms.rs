//! Normalisations where they are hard: a mean far from zero, an outlier, a shift, several threads.

mod common;

use common::{assert_close, each_isa, silu, values};
use proptest::prelude::*;
use sd_kernels::{Activation, GroupNorm, group_norm, group_norm_shifted, layer_norm};

const EPSILON: f32 = 1e-5;

/// The definition, in f64. `x` `[n, pixels, channels]`, `shift` `[rows, channels]`.
fn normalised(x: &[f32], n: usize, shift: &[f32], groups: usize, affine: [&[f32]; 2]) -> Vec<f64> {
    let [weight, bias] = affine;
    let channels = weight.len();
    let (sample, size, rows) = (x.len() / n, channels / groups, shift.len() / channels);
    let shifted: Vec<f64> = (0..x.len())
        .map(|i| f64::from(x[i]) + f64::from(shift[i / sample % rows * channels + i % channels]))
        .collect();
    let mut out = vec![0.0; x.len()];
    for (x, out) in shifted
        .chunks_exact(sample)
        .zip(out.chunks_exact_mut(sample))
    {
        for group in 0..groups {
            let of = |i: &usize| i % channels / size == group;
            let members: Vec<usize> = (0..sample).filter(of).collect();
            let count = members.len() as f64;
            let mean = members.iter().map(|&i| x[i]).sum::<f64>() / count;
            let variance = members.iter().map(|&i| (x[i] - mean).powi(2)).sum::<f64>() / count;
            let deviation = (variance + f64::from(EPSILON)).sqrt();
            for i in members {
                let (weight, bias) = (weight[i % channels], bias[i % channels]);
                out[i] = (x[i] - mean) / deviation * f64::from(weight) + f64::from(bias);
            }
        }
    }
    out
}

fn check(x: &[f32], n: usize, shift: &[f32], groups: usize, channels: usize, tolerance: f64) {
    let (weight, bias) = (values(2, channels), values(3, channels));
    let pixels = x.len() / n / channels;
    let expected = normalised(x, n, shift, groups, [&weight, &bias]);
    for activation in [Activation::None, Activation::Silu] {
        let exact: Vec<f64> = match activation {
            Activation::Silu => expected.iter().map(|&x| silu(x)).collect(),
            _ => expected.clone(),
        };
        let norm = GroupNorm {
            weight: &weight,
            bias: &bias,
            groups,
            epsilon: EPSILON,
            activation,
        };
        each_isa(|isa| {
            let what = format!("{} {n}×{pixels}×{channels}/{groups}", isa.name());
            let mut out = vec![f32::NAN; x.len()];
            group_norm_shifted(isa, x, n, pixels, shift, norm, &mut out).unwrap();
            assert_close(&what, &out, &exact, tolerance);
        });
    }
}

/// About normally distributed: the sum of twelve uniform numbers.
fn normal(seed: u64, len: usize) -> Vec<f32> {
    let uniform = values(seed, 12 * len);
    uniform
        .chunks_exact(12)
        .map(|x| x.iter().sum::<f32>() / 2.0)
        .collect()
}

/// As exact as if the mean were zero: x is compared as it is after its own rounding.
#[test]
fn mean_a_thousand_times_the_deviation() {
    for (n, pixels, channels, groups) in [(1, 4096, 20, 4), (2, 700, 40, 4), (1, 64, 320, 32)] {
        let mut x = normal(1, n * pixels * channels);
        x.iter_mut().for_each(|x| *x += 1000.0);
        check(&x, n, &vec![0.0; channels], groups, channels, 4e-6);
    }
}

/// Each channel at another place, so that most of a group's variance lies between its channels.
#[test]
fn channels_far_from_one_another() {
    let (pixels, channels) = (900, 24);
    let mut x = normal(5, pixels * channels);
    for (i, x) in x.iter_mut().enumerate() {
        *x += (i % channels) as f32 * 100.0;
    }
    check(&x, 1, &vec![0.0; channels], 2, channels, 2e-6);
}

/// One pixel a million deviations away, where any of the pivots may come from.
#[test]
fn outlier_anywhere() {
    let (pixels, channels) = (600, 8);
    for pixel in [0, 100, 300, 500, 599] {
        let mut x = normal(7, pixels * channels);
        x[pixel * channels..][..channels].fill(1e6);
        check(&x, 1, &vec![0.0; channels], 4, channels, 2e-5);
    }
}

#[test]
fn shifts_for_all_and_for_each_sample() {
    let (n, pixels, channels, groups) = (3, 130, 40, 4);
    let x = values(1, n * pixels * channels);
    for rows in [1, n] {
        let mut shift = values(4, rows * channels);
        check(&x, n, &shift, groups, channels, 3e-6);
        // The sum's deviation is some hundreds now, and a shift is the channel's mean.
        shift.iter_mut().for_each(|x| *x *= 500.0);
        check(&x, n, &shift, groups, channels, 1e-5);
    }
}

#[test]
fn constant_pictures_give_the_bias() {
    let bias = values(3, 6);
    let norm = GroupNorm {
        weight: &[1.0; 6],
        bias: &bias,
        groups: 2,
        epsilon: EPSILON,
        activation: Activation::None,
    };
    each_isa(|isa| {
        let mut out = [0.0; 6 * 50];
        group_norm(isa, &[777.7; 6 * 50], 1, 50, norm, &mut out).unwrap();
        for pixel in out.chunks_exact(6) {
            assert_eq!(pixel, bias, "{}", isa.name());
        }
        let mut out = [0.0; 6];
        layer_norm(isa, &[777.7; 6], 1, &[1.0; 6], &bias, EPSILON, &mut out).unwrap();
        assert_eq!(out[..], bias, "{}", isa.name());
    });
}

#[test]
fn not_a_number_spreads_over_its_group_alone() {
    let norm = GroupNorm {
        weight: &[1.0; 4],
        bias: &[0.0; 4],
        groups: 2,
        epsilon: EPSILON,
        activation: Activation::Silu,
    };
    each_isa(|isa| {
        let mut x = values(1, 4 * 40);
        x[4 * 20] = f32::NAN;
        let mut out = vec![0.0; x.len()];
        group_norm(isa, &x, 1, 40, norm, &mut out).unwrap();
        for (i, y) in out.iter().enumerate() {
            assert_eq!(y.is_nan(), i % 4 < 2, "{} at {i}: {y}", isa.name());
        }
    });
}

#[test]
fn same_bits_on_any_number_of_threads() {
    let (n, pixels, channels) = (2, 1000, 320);
    let x = normal(1, n * pixels * channels);
    let (weight, bias, shift) = (
        values(2, channels),
        values(3, channels),
        values(4, channels),
    );
    let norm = GroupNorm {
        weight: &weight,
        bias: &bias,
        groups: 32,
        epsilon: EPSILON,
        activation: Activation::Silu,
    };
    each_isa(|isa| {
        let [one, two, three] = [1, 2, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let (mut groups, mut rows) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                group_norm_shifted(isa, &x, n, pixels, &shift, norm, &mut groups).unwrap();
                layer_norm(isa, &x, n * pixels, &weight, &bias, EPSILON, &mut rows).unwrap();
                groups.extend(rows);
                groups.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            })
        });
        assert!(one == two && two == three, "{}", isa.name());
    });
}

#[test]
fn rows_far_from_zero() {
    let (rows, width) = (9, 1280);
    let mut x = normal(1, rows * width);
    x.iter_mut().for_each(|x| *x += 1000.0);
    let (weight, bias) = (values(2, width), values(3, width));
    let expected = normalised(&x, rows, &vec![0.0; width], 1, [&weight, &bias]);
    each_isa(|isa| {
        let mut out = vec![f32::NAN; x.len()];
        layer_norm(isa, &x, rows, &weight, &bias, EPSILON, &mut out).unwrap();
        assert_close(isa.name(), &out, &expected, 3e-6);
    });
}

#[test]
fn shifts_that_do_not_fit() {
    let norm = GroupNorm {
        weight: &[1.0; 2],
        bias: &[0.0; 2],
        groups: 1,
        epsilon: EPSILON,
        activation: Activation::None,
    };
    each_isa(|isa| {
        let mut out = [0.0; 12];
        for len in [0, 1, 3, 4, 12] {
            let shift = vec![0.0; len];
            let error = group_norm_shifted(isa, &[0.0; 12], 3, 2, &shift, norm, &mut out);
            let expected = format!("the shift has {len} elements, expected 6");
            assert_eq!(error.unwrap_err().to_string(), expected);
        }
    });
}

proptest! {
    #![proptest_config(common::cases(32))]

    #[test]
    fn shifted_groups_of_any_size(
        n in 1usize..4,
        pixels in 1usize..150,
        size in 1usize..20,
        groups in 1usize..9,
        each in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let channels = size * groups;
        let x = normal(seed, n * pixels * channels);
        let shift = values(seed ^ 1, if each { n } else { 1 } * channels);
        // One or two numbers to a group may lie close to each other: epsilon bounds the factor.
        check(&x, n, &shift, groups, channels, if size * pixels < 8 { 1e-4 } else { 1e-5 });
    }
}
