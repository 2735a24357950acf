//! Moving numbers about: every one arrives where the definition says, bit by bit.

mod common;

use common::{each_isa, values};
use proptest::prelude::*;
use sd_kernels::{Isa, add, concat_channels, copy, to_channels_first, to_channels_last};

fn check_layouts(n: usize, channels: usize, pixels: usize) {
    let x = values(1, n * channels * pixels);
    let mut last = Vec::with_capacity(x.len());
    for sample in x.chunks_exact(channels * pixels) {
        for pixel in 0..pixels {
            last.extend((0..channels).map(|c| sample[c * pixels + pixel]));
        }
    }
    each_isa(|isa| {
        let what = format!("{} {n}×{channels}×{pixels}", isa.name());
        let mut out = vec![f32::NAN; x.len()];
        to_channels_last(isa, &x, n, channels, pixels, &mut out).unwrap();
        assert!(out == last, "{what} to channels-last");
        out.fill(f32::NAN);
        to_channels_first(isa, &last, n, channels, pixels, &mut out).unwrap();
        assert!(out == x, "{what} to channels-first");
    });
}

fn check_concat(channels_a: usize, channels_b: usize, pixels: usize) {
    let (a, b) = (
        values(1, channels_a * pixels),
        values(2, channels_b * pixels),
    );
    let mut expected = Vec::new();
    for pixel in 0..pixels {
        expected.extend_from_slice(&a[pixel * channels_a..][..channels_a]);
        expected.extend_from_slice(&b[pixel * channels_b..][..channels_b]);
    }
    let mut out = vec![f32::NAN; expected.len()];
    concat_channels(&a, channels_a, &b, channels_b, pixels, &mut out).unwrap();
    assert!(
        out == expected,
        "{channels_a} + {channels_b} channels, {pixels} pixels"
    );
}

#[test]
fn layouts_of_the_networks() {
    for (n, channels, pixels) in [(2, 4, 4096), (1, 3, 5000), (2, 320, 300), (1, 1280, 65)] {
        check_layouts(n, channels, pixels);
    }
}

#[test]
fn skip_connections_of_the_networks() {
    for (a, b, pixels) in [(1280, 640, 64), (320, 320, 2 * 400), (640, 320, 1)] {
        check_concat(a, b, pixels);
    }
}

#[test]
fn sums_number_by_number() {
    for len in [0, 1, 17, 4096, 50_001] {
        let (a, b) = (values(1, len), values(2, len));
        let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        each_isa(|isa| {
            let mut sum = a.clone();
            add(isa, &mut sum, &b).unwrap();
            assert!(sum == expected, "{} {len}", isa.name());
        });
    }
}

#[test]
fn nothing_to_move() {
    each_isa(|isa| {
        to_channels_last(isa, &[], 0, 3, 4, &mut []).unwrap();
        to_channels_first(isa, &[], 2, 0, 4, &mut []).unwrap();
        to_channels_last(isa, &[], 2, 3, 0, &mut []).unwrap();
    });
    concat_channels(&[], 2, &[], 3, 0, &mut []).unwrap();
}

#[test]
fn what_does_not_fit_is_an_error() {
    let isa = Isa::best();
    let mut out = [0.0; 6];
    let error = |result: sd_kernels::Result<()>| result.unwrap_err().to_string();
    assert_eq!(
        error(to_channels_last(isa, &[0.0; 5], 1, 2, 3, &mut out)),
        "the input has 5 elements, expected 6"
    );
    assert_eq!(
        error(to_channels_first(isa, &[0.0; 6], 1, 2, 3, &mut out[1..])),
        "the output has 5 elements, expected 6"
    );
    assert!(to_channels_last(isa, &[], usize::MAX, 2, 2, &mut []).is_err());
    assert_eq!(
        error(concat_channels(&[0.0; 2], 1, &[0.0; 3], 2, 2, &mut out)),
        "the second input has 3 elements, expected 4"
    );
    assert!(concat_channels(&[0.0; 4], 1, &[0.0; 4], 2, 2, &mut out).is_err());
    assert!(concat_channels(&[0.0; 2], 1, &[0.0; 4], 2, 2, &mut out[1..]).is_err());
    assert!(concat_channels(&[], usize::MAX, &[], usize::MAX, 2, &mut out).is_err());
    assert_eq!(
        error(concat_channels(&[], 0, &[], 0, 2, &mut [])),
        "channels is 0; at least 1 in one of the pictures"
    );
    assert_eq!(
        error(copy(&[0.0; 7], &mut out)),
        "the output has 6 elements, expected 7"
    );
    assert_eq!(
        error(add(isa, &mut out, &[0.0; 7])),
        "the summand has 7 elements, expected 6"
    );
}

proptest! {
    #![proptest_config(common::cases(64))]

    #[test]
    fn layouts_of_any_size(n in 1usize..4, channels in 1usize..70, pixels in 1usize..400) {
        check_layouts(n, channels, pixels);
    }

    #[test]
    fn copies_of_any_size(len in 0usize..100_000) {
        let (x, mut out) = (values(1, len), vec![f32::NAN; len]);
        copy(&x, &mut out).unwrap();
        prop_assert!(out == x);
    }

    #[test]
    fn concatenations_of_any_size(a in 0usize..50, b in 0usize..50, pixels in 0usize..600) {
        prop_assume!(a + b > 0);
        check_concat(a, b, pixels);
    }
}
