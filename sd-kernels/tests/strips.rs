//! A picture computed strip by strip is the picture computed whole.

mod common;

use common::{assert_close, each_isa, values};
use proptest::prelude::*;
use sd_kernels::{
    Activation, ConvShape, Epilogue, GroupNorm, Moments, OutputRows, PackedConv, Packing, Picture,
    Products, StripInput, WeightStorage, group_norm, group_norm_with,
};

fn widened(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// The convolution of a picture in strips of `rows` output rows, each from no more input than it
/// reaches.
fn check_conv(shape: ConvShape, (n, height, width): (usize, usize, usize), rows: usize) {
    let picture = Picture { n, height, width };
    let (out_height, out_width) = shape.output(picture).unwrap();
    let depth = shape.inputs * shape.kernel * shape.kernel;
    let x = values(1, n * height * width * shape.inputs);
    let weight = values(2, shape.outputs * depth);
    let (bias, row) = (values(3, shape.outputs), out_width * shape.outputs);
    let residual = values(4, n * out_height * row);
    each_isa(|isa| {
        let packed = PackedConv::new(isa, &weight, shape).unwrap();
        let epilogue = |residual| Epilogue {
            bias: Some(&bias),
            residual: Some(residual),
            ..Epilogue::default()
        };
        let mut whole = vec![f32::NAN; residual.len()];
        packed
            .forward(&x, picture, epilogue(&residual), &mut whole)
            .unwrap();
        for sample in 0..n {
            for first in (0..out_height).step_by(rows) {
                let count = rows.min(out_height - first);
                let scale = if shape.upsample { 2 } else { 1 };
                let tap = (first * shape.stride) as isize - shape.pad_before as isize;
                let last = tap + ((count - 1) * shape.stride + shape.kernel) as isize;
                let from = tap.max(0) as usize / scale;
                let end = (last.max(1) as usize).div_ceil(scale).min(height);
                let from = from.min(end - 1);
                let strip = Picture {
                    n: 1,
                    height: end - from,
                    width,
                };
                let line = width * shape.inputs;
                let x = &x[(sample * height + from) * line..(sample * height + end) * line];
                let at = (sample * out_height + first) * row..;
                let output = OutputRows {
                    first: tap - (from * scale) as isize,
                    count,
                };
                let mut out = vec![f32::NAN; count * row];
                let residual = epilogue(&residual[at.clone()][..count * row]);
                packed
                    .forward_rows(shape.upsample, x, strip, output, residual, &mut out)
                    .unwrap();
                let expected = widened(&whole[at][..count * row]);
                let what = format!("{} {shape:?}", isa.name());
                let size = (depth as f64).sqrt();
                // Strip and picture may differ in algorithm and tiles: the rounding of F(6×6).
                assert_close(&what, &out, &expected, 3.2e-5 * size);
            }
        }
    });
}

#[test]
fn convolutions_at_odd_sizes() {
    for (height, width, rows) in [(1, 1, 1), (9, 7, 4), (11, 5, 3), (16, 8, 8)] {
        check_conv(ConvShape::same(32, 20, 3), (2, height, width), rows);
        check_conv(ConvShape::same(16, 3, 3), (1, height, width), rows);
        check_conv(ConvShape::same(5, 7, 1), (1, height, width), rows);
        check_conv(
            ConvShape::same(16, 20, 3).upsampled(),
            (1, height, width),
            rows,
        );
    }
    let halving = ConvShape {
        stride: 2,
        pad_before: 0,
        pad_after: 1,
        ..ConvShape::same(16, 12, 3)
    };
    for (height, width, rows) in [(2, 2, 1), (10, 6, 3), (7, 9, 2)] {
        check_conv(halving, (2, height, width), rows);
    }
}

/// What a strip of a picture makes in parts, normalised on its way in and measured on its way out, beside
/// the same steps one after the other.
fn check_strip(
    shape: ConvShape,
    products: Products,
    (height, width): (usize, usize),
    normed: bool,
) {
    let (inputs, outputs) = (shape.inputs, shape.outputs);
    let line = width * inputs;
    let x: Vec<f32> = values(1, height * line);
    let weight = values(2, outputs * inputs * shape.kernel * shape.kernel);
    // Means far from zero, beside which a variance is small.
    let bias: Vec<f32> = values(3, outputs).iter().map(|x| 300.0 * x).collect();
    let [norm_weight, norm_bias] = [4, 5].map(|seed| values(seed, inputs));
    let norm = GroupNorm {
        weight: &norm_weight,
        bias: &norm_bias,
        groups: 1,
        epsilon: 1e-5,
        activation: Activation::Silu,
    };
    let picture = Picture {
        n: 1,
        height,
        width,
    };
    let (out_height, out_width) = shape.output(picture).unwrap();
    let rows = OutputRows {
        first: -(shape.pad_before as isize),
        count: out_height,
    };
    let residual = values(6, out_height * out_width * outputs);
    let epilogue = Epilogue {
        bias: Some(&bias),
        residual: Some(&residual),
        ..Epilogue::default()
    };
    each_isa(|isa| {
        let what = format!("{} {} {shape:?}", isa.name(), products.name());
        let packing = Packing {
            storage: WeightStorage::F32,
            products,
        };
        let packed = PackedConv::read(isa, &weight[..], shape, packing).unwrap();
        // Those of a larger picture.
        let moments = Moments::of(isa, &values(7, 50 * inputs), inputs).unwrap();
        let mut seen = x.clone();
        if normed {
            group_norm_with(isa, &x, &moments, norm, &mut seen).unwrap();
        }
        let mut expected = vec![f32::NAN; residual.len()];
        packed
            .forward_rows(
                shape.upsample,
                &seen,
                picture,
                rows,
                epilogue,
                &mut expected,
            )
            .unwrap();
        let measured = Moments::of(isa, &expected, outputs).unwrap();
        let input = StripInput {
            parts: &[&x],
            width,
            norm: None,
        };
        let mut out = vec![f32::NAN; residual.len()];
        let unmeasured =
            packed.forward_strip(shape.upsample, input, rows, epilogue, false, &mut out);
        assert_eq!(unmeasured, Ok(None));
        let mut before = None;
        for (threads, cuts) in [(1, vec![]), (2, vec![height / 2]), (3, vec![1, height - 1])] {
            let cuts = [vec![0], cuts, vec![height]].concat();
            let parts = cuts.windows(2).map(|cut| &x[cut[0] * line..cut[1] * line]);
            let input = StripInput {
                parts: &parts.collect::<Vec<_>>(),
                width,
                norm: normed.then_some((norm, &moments)),
            };
            let mut out = vec![f32::NAN; residual.len()];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let mut run = |measured| {
                packed.forward_strip(shape.upsample, input, rows, epilogue, measured, &mut out)
            };
            let found = pool
                .build()
                .unwrap()
                .install(|| run(true).unwrap().unwrap());
            for (found, expected) in out.iter().zip(&expected) {
                assert_eq!(found.to_bits(), expected.to_bits(), "{what}");
            }
            for (found, expected) in found.groups(outputs).zip(measured.groups(outputs)) {
                assert!(
                    (found.0 - expected.0).abs() <= 1e-6 * expected.0.abs(),
                    "{what}"
                );
                assert!((found.1 - expected.1).abs() <= 1e-5 * expected.1, "{what}");
            }
            // Neither threads nor parts change a bit.
            assert_eq!(*before.get_or_insert(found.clone()), found, "{what}");
        }
    });
}

#[test]
fn strips_in_parts_are_the_whole() {
    for products in [vec![Products::F32], Products::all()].concat() {
        for normed in [false, true] {
            let check = |shape, size| check_strip(shape, products, size, normed);
            check(ConvShape::same(32, 33, 3), (5, 131));
            check(ConvShape::same(64, 33, 3), (3, 3));
            check(ConvShape::same(32, 70, 3).upsampled(), (9, 40));
            check(ConvShape::same(5, 6, 3), (8, 7));
            check(ConvShape::same(32, 20, 1), (4, 5));
        }
    }
}

#[test]
fn parts_that_are_no_rows_are_an_error() {
    let isa = sd_kernels::Isa::best();
    let packed = PackedConv::new(isa, &[1.0; 18], ConvShape::same(2, 1, 3)).unwrap();
    let moments = |channels: usize| Moments::new(4, vec![0.0; channels], vec![1.0; channels]);
    let norm = |weight, bias| GroupNorm {
        weight,
        bias,
        groups: 1,
        epsilon: 1e-5,
        activation: Activation::None,
    };
    let run = |parts: &[&[f32]], width, norm: Option<(GroupNorm<'_>, &Moments)>| {
        let input = StripInput { parts, width, norm };
        let (rows, none) = (
            OutputRows {
                first: -1,
                count: 2,
            },
            Epilogue::default(),
        );
        packed.forward_strip(false, input, rows, none, true, &mut [0.0; 4])
    };
    let [one, two] = [moments(1).unwrap(), moments(2).unwrap()];
    let right = norm(&[1.0; 2], &[0.0; 2]);
    assert!(run(&[&[1.0; 8]], 2, Some((right, &two))).is_ok());
    assert!(run(&[&[1.0; 4], &[1.0; 4]], 2, None).is_ok());
    assert!(run(&[&[1.0; 5], &[1.0; 3]], 2, None).is_err());
    assert!(run(&[&[1.0; 8]], 0, None).is_err());
    assert!(run(&[], 2, None).is_ok(), "all of it is padding");
    assert!(run(&[&[1.0; 8]], usize::MAX, None).is_err());
    assert!(run(&[&[1.0; 8]], 2, Some((right, &one))).is_err());
    assert!(run(&[&[1.0; 8]], 2, Some((norm(&[1.0], &[0.0]), &one))).is_err());
    assert!(run(&[&[1.0; 8]], 2, Some((norm(&[1.0; 2], &[0.0]), &two))).is_err());
}

#[test]
fn rows_far_outside_the_strip_are_an_error() {
    let isa = sd_kernels::Isa::best();
    let shape = ConvShape::same(1, 1, 3);
    let packed = PackedConv::new(isa, &[1.0; 9], shape).unwrap();
    let strip = Picture {
        n: 1,
        height: 2,
        width: 2,
    };
    let run = |first, count| {
        let (rows, none) = (OutputRows { first, count }, Epilogue::default());
        let mut out = vec![0.0; 4];
        packed.forward_rows(false, &[1.0; 4], strip, rows, none, &mut out)
    };
    assert!(run(-1, 2).is_ok());
    assert!(run(isize::MIN, 2).is_err() && run(isize::MAX, 2).is_err());
    assert!(run(-1, 3).is_err() && run(-1, usize::MAX).is_err());
}

proptest! {
    #![proptest_config(common::cases(32))]

    #[test]
    fn convolutions_of_any_size(
        (lines, outputs) in (1usize..3, 1usize..40), upsample: bool,
        size in (1usize..3, 1usize..14, 1usize..14), rows in 1usize..9,
    ) {
        let shape = ConvShape { upsample, ..ConvShape::same(16 * lines, outputs, 3) };
        check_conv(shape, size, rows);
    }

    /// However the pixels are cut, and wherever their mean lies.
    #[test]
    fn moments_of_strips_are_those_of_the_whole(
        (groups, size, pixels) in (1usize..5, 1usize..7, 1usize..400),
        cuts in prop::collection::vec(0usize..400, 0..6), offset in -100f32..100.0,
    ) {
        let channels = groups * size;
        let mut x = values(5, pixels * channels);
        x.iter_mut().for_each(|x| *x += offset);
        let (weight, bias) = (values(6, channels), values(7, channels));
        let norm = GroupNorm {
            weight: &weight, bias: &bias, groups, epsilon: 1e-6, activation: Activation::Silu,
        };
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % pixels).collect();
        cuts.extend([0, pixels]);
        cuts.sort_unstable();
        cuts.dedup();
        each_isa(|isa| {
            let mut whole = vec![f32::NAN; x.len()];
            group_norm(isa, &x, 1, pixels, norm, &mut whole).unwrap();
            let strips = cuts.windows(2).map(|cut| &x[cut[0] * channels..cut[1] * channels]);
            let moments = strips.map(|strip| Moments::of(isa, strip, channels).unwrap());
            let all = moments.reduce(|mut all, more| { all.merge(&more).unwrap(); all }).unwrap();
            let mut strips = vec![f32::NAN; x.len()];
            for cut in cuts.windows(2) {
                let strip = cut[0] * channels..cut[1] * channels;
                group_norm_with(isa, &x[strip.clone()], &all, norm, &mut strips[strip]).unwrap();
            }
            // One sample's variance is the difference of sums that are 100² as large.
            assert_close(isa.name(), &strips, &widened(&whole), 2e-5);
        });
    }
}

#[test]
fn moments_that_do_not_fit_are_an_error() {
    let isa = sd_kernels::Isa::best();
    assert!(Moments::of(isa, &[], 2).is_err());
    assert!(Moments::of(isa, &[0.0; 3], 2).is_err());
    assert!(Moments::of(isa, &[0.0; 3], 0).is_err());
    assert!(Moments::new(2, vec![0.0; 3], vec![0.0; 2]).is_err());
    let mut two = Moments::of(isa, &[1.0, 2.0, 3.0, 6.0], 2).unwrap();
    assert_eq!(
        two,
        Moments::new(2, vec![2.0, 4.0], vec![1.0, 4.0]).unwrap()
    );
    assert!(two.merge(&Moments::of(isa, &[0.0; 3], 3).unwrap()).is_err());
    let norm = GroupNorm {
        weight: &[1.0; 2],
        bias: &[0.0; 2],
        groups: 2,
        epsilon: 0.0,
        activation: Activation::None,
    };
    let (x, mut out) = ([1.0, 2.0, 3.0, 6.0], [0.0; 4]);
    group_norm_with(isa, &x, &two, norm, &mut out).unwrap();
    assert_eq!(out, [-1.0, -1.0, 1.0, 1.0]);
    assert!(group_norm_with(isa, &x[1..], &two, norm, &mut out).is_err());
    assert!(group_norm_with(isa, &x, &two, norm, &mut out[1..]).is_err());
    let three = GroupNorm { groups: 3, ..norm };
    assert!(group_norm_with(isa, &x, &two, three, &mut out).is_err());
}
