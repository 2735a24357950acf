//! Products of bf16: each instruction against the emulation of its roundings, bit for bit, and both
//! against sums in f64.

mod common;

use common::{each_isa, values};
use half::bf16;
use proptest::prelude::*;
use sd_kernels::{
    Activation, AttentionShape, ConvShape, DType, Epilogue, Held, Isa, OutputRows, PackedConv,
    PackedGeglu, PackedMatrix, Packing, Picture, Products, WeightStorage, attention_by, geglu,
    linear,
};

fn packing(products: Products) -> Packing {
    Packing {
        storage: WeightStorage::F32,
        products,
    }
}

/// Values of which some are too small for a normal f32, some large, some zero.
fn hard(seed: u64, len: usize) -> Vec<f32> {
    let mut values = values(seed, len);
    for (i, x) in values.iter_mut().enumerate() {
        match i % 17 {
            3 => *x *= 1e-39,
            5 => *x *= 3e-20,
            7 => *x *= 1e4,
            11 => *x = -0.0,
            _ => {}
        }
    }
    values
}

#[track_caller]
fn assert_same(what: &str, found: &[f32], expected: &[f32]) {
    for (i, (x, y)) in found.iter().zip(expected).enumerate() {
        assert!(
            x.to_bits() == y.to_bits(),
            "{what} at {i}: {x:e}, expected {y:e}"
        );
    }
}

/// What `compute` makes by every unit on every instruction set is what the emulation makes on the
/// portable one. `exact`: results go through no function whose last bits differ between sets.
fn check(what: &str, compute: impl Fn(Isa, Products) -> Vec<f32>, exact: bool) {
    let emulations = Products::all()
        .into_iter()
        .filter(|unit| unit.is_emulated());
    for emulation in emulations {
        let expected = compute(Isa::portable(), emulation);
        each_isa(|isa| {
            let alike = Products::all()
                .into_iter()
                .filter(|unit| unit.emulated() == emulation);
            let by_set = compute(isa, emulation);
            if exact {
                assert_same(
                    &format!("{what}, {}, {}", emulation.name(), isa.name()),
                    &by_set,
                    &expected,
                );
            }
            for unit in alike {
                let name = format!("{what}, {}, {}", unit.name(), isa.name());
                assert_same(&name, &compute(isa, unit), &by_set);
            }
        });
    }
}

fn linear_by(
    isa: Isa,
    products: Products,
    x: &[f32],
    w: &[f32],
    [rows, outputs, inputs]: [usize; 3],
) -> Vec<f32> {
    let weight = PackedMatrix::read(isa, w, outputs, inputs, packing(products)).unwrap();
    assert_eq!(weight.held(), Held::Pairs);
    let mut out = vec![f32::NAN; rows * outputs];
    linear(x, rows, &weight, Epilogue::default(), &mut out).unwrap();
    out
}

fn check_linear(rows: usize, inputs: usize, outputs: usize) {
    let (x, w) = (hard(1, rows * inputs), hard(2, outputs * inputs));
    let what = format!("{rows}×{inputs}×{outputs}");
    check(
        &what,
        |isa, unit| linear_by(isa, unit, &x, &w, [rows, outputs, inputs]),
        true,
    );
}

#[test]
fn linear_layers_are_the_emulations() {
    for (rows, inputs, outputs) in [
        (1, 1, 1),
        (33, 31, 17),
        (16, 64, 32),
        (70, 1311, 45),
        (5, 2600, 3),
    ] {
        check_linear(rows, inputs, outputs);
    }
}

/// A number as the units round it.
fn rounded(x: f32) -> f64 {
    let x = if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x };
    bf16::from_f32(x).to_f64()
}

/// u = 2⁻²⁴ and 2⁻⁹ are the relative errors of one rounding to f32 and to bf16. The sum of `terms`
/// products of numbers that are bf16 has an exact product behind each of at most 2·terms roundings
/// (of the padding too), so it is off by at most γ = terms'·u / (1 − terms'·u) of the sum of the
/// products' sizes (Higham 2002, section 3.1), and by a least normal f32 for each that is zero.
#[test]
fn sums_are_as_exact_as_f32_allows() {
    for [rows, outputs, inputs] in [[9, 20, 77], [3, 33, 1311]] {
        let (x, w) = (values(1, rows * inputs), values(2, outputs * inputs));
        for unit in Products::all() {
            let found = linear_by(Isa::best(), unit, &x, &w, [rows, outputs, inputs]);
            let terms = (inputs.next_multiple_of(32) + inputs / 16 + 4) as f64;
            let gamma = terms * f64::exp2(-24.0) / (1.0 - terms * f64::exp2(-24.0));
            for (i, &y) in found.iter().enumerate() {
                let row = &x[i / outputs * inputs..][..inputs];
                let column = &w[i % outputs * inputs..][..inputs];
                let pairs = || row.iter().zip(column);
                let sum: f64 = pairs().map(|(&a, &b)| rounded(a) * rounded(b)).sum();
                let size: f64 = pairs()
                    .map(|(&a, &b)| (rounded(a) * rounded(b)).abs())
                    .sum();
                let off = (f64::from(y) - sum).abs();
                let bound = gamma * size + terms * f64::from(f32::MIN_POSITIVE);
                assert!(off <= bound, "{}: off by {off:e} of {bound:e}", unit.name());
                // With the roundings of both factors.
                let exact: f64 = pairs().map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                let size: f64 = pairs().map(|(&a, &b)| f64::from(a * b).abs()).sum();
                let bound = (f64::exp2(-8.0) + f64::exp2(-18.0) + 1.01 * gamma) * size;
                assert!((f64::from(y) - exact).abs() <= bound, "{}", unit.name());
            }
        }
    }
}

#[test]
fn gated_layers_are_the_emulations() {
    for (rows, inputs, columns) in [(1, 1, 1), (37, 90, 21), (40, 320, 64), (70, 700, 9)] {
        let (x, w) = (hard(1, rows * inputs), values(2, 2 * columns * inputs));
        let bias = values(3, 2 * columns);
        check(
            "geglu",
            |isa, unit| {
                let weight =
                    PackedGeglu::read(isa, &w[..], columns, inputs, packing(unit)).unwrap();
                let mut out = vec![f32::NAN; rows * columns];
                geglu(&x, rows, &weight, Some(&bias), None, &mut out).unwrap();
                out
            },
            false,
        );
    }
}

fn check_conv(shape: ConvShape, picture: Picture) {
    let Picture { n, height, width } = picture;
    let x = values(1, n * height * width * shape.inputs);
    let w = values(
        2,
        shape.outputs * shape.inputs * shape.kernel * shape.kernel,
    );
    let bias = values(3, shape.outputs);
    let (out_height, out_width) = shape.output(picture).unwrap();
    let by = |isa, unit, x: &[f32], w: &[f32], bias: Option<&[f32]>| {
        let weight = PackedConv::read(isa, w, shape, packing(unit)).unwrap();
        let mut out = vec![f32::NAN; n * out_height * out_width * shape.outputs];
        let epilogue = Epilogue {
            bias,
            ..Epilogue::default()
        };
        weight.forward(x, picture, epilogue, &mut out).unwrap();
        out
    };
    check(
        "convolution",
        |isa, unit| by(isa, unit, &x, &w, Some(&bias)),
        weight_is_direct(shape),
    );
    // All units see their numbers by the same steps: beside f32 an error in these shows. Rounding
    // both factors costs 2⁻⁸ of the sum of the products' sizes.
    let f32 = Products::F32;
    let exact = by(Isa::portable(), f32, &x, &w, Some(&bias));
    let [x_sizes, w_sizes] = [&x, &w].map(|all| all.iter().map(|x| x.abs()).collect::<Vec<_>>());
    let sizes = by(Isa::portable(), f32, &x_sizes, &w_sizes, None);
    for unit in Products::all() {
        let found = by(Isa::best(), unit, &x, &w, Some(&bias));
        for ((found, exact), size) in found.iter().zip(&exact).zip(&sizes) {
            let bound = 1.01 * f32::exp2(-8.0) * size + 1e-5;
            let off = (found - exact).abs();
            assert!(off <= bound, "{}: off by {off:e} of {bound:e}", unit.name());
        }
    }
}

/// Winograd's transforms differ in their last bits between instruction sets.
fn weight_is_direct(shape: ConvShape) -> bool {
    shape.kernel != 3 || shape.stride != 1 || !shape.inputs.is_multiple_of(16)
}

#[test]
fn convolutions_are_the_emulations() {
    let picture = Picture {
        n: 2,
        height: 7,
        width: 9,
    };
    check_conv(ConvShape::same(33, 20, 1), picture);
    check_conv(ConvShape::same(64, 17, 3), picture);
    check_conv(ConvShape::same(5, 6, 3), picture);
    let strided = ConvShape {
        stride: 2,
        pad_before: 0,
        ..ConvShape::same(32, 9, 3)
    };
    check_conv(strided, picture);
    check_conv(ConvShape::same(32, 40, 3).upsampled(), picture);
    // More lines than are multiplied at once under one tap, and as many as one and two taps have.
    check_conv(ConvShape::same(352, 33, 3), picture);
    check_conv(ConvShape::same(160, 3, 3), picture);
    let even = ConvShape {
        kernel: 2,
        pad_before: 1,
        pad_after: 0,
        ..ConvShape::same(96, 5, 3)
    };
    check_conv(even, picture);
    // More columns and rows than a strip has.
    let picture = Picture {
        n: 1,
        height: 3,
        width: 131,
    };
    check_conv(ConvShape::same(32, 3, 3), picture);
    let picture = Picture {
        n: 2,
        height: 37,
        width: 64,
    };
    check_conv(ConvShape::same(32, 35, 3), picture);
    let picture = Picture {
        n: 1,
        height: 1,
        width: 1,
    };
    check_conv(ConvShape::same(64, 33, 5), picture);
}

/// Rows of a convolution's output by themselves have the bits they have in the whole.
#[test]
fn rows_of_a_convolution_are_those_of_the_whole() {
    let shape = ConvShape::same(64, 33, 3);
    let [n, height, width] = [2, 11, 70];
    let picture = Picture { n, height, width };
    let x = values(1, n * height * width * 64);
    let w = values(2, 33 * 64 * 9);
    for unit in Products::all() {
        let weight = PackedConv::read(Isa::best(), &w[..], shape, packing(unit)).unwrap();
        if weight.products().is_f32() {
            continue;
        }
        let mut whole = vec![f32::NAN; n * height * width * 33];
        let none = Epilogue::default();
        weight.forward(&x, picture, none, &mut whole).unwrap();
        let rows = OutputRows { first: 3, count: 5 };
        let mut some = vec![f32::NAN; n * 5 * width * 33];
        weight
            .forward_rows(false, &x, picture, rows, none, &mut some)
            .unwrap();
        // The kernel's first row at the output's first is the input's fourth: the output's fifth.
        for (whole, some) in whole
            .chunks(height * width * 33)
            .zip(some.chunks(5 * width * 33))
        {
            let whole = &whole[4 * width * 33..][..5 * width * 33];
            assert_same(unit.name(), some, whole);
        }
    }
}

/// Winograd's in f32 with weights rounded to bf16: what is stored half stays as it is.
#[test]
fn what_winograd_does_faster_stays_f32() {
    let shape = ConvShape::same(32, 9, 3);
    for unit in Products::all() {
        let w = values(2, 32 * 9 * 9);
        let packed = PackedConv::read(Isa::best(), &w[..], shape, packing(unit)).unwrap();
        let expected = match packed.products().is_f32() {
            true => Held::Numbers(DType::Bf16),
            false => Held::Pairs,
        };
        assert_eq!(packed.held(), expected);
        let bytes = PackedConv::bytes_of(Isa::best(), &w[..], shape, packing(unit)).unwrap();
        assert_eq!(packed.bytes(), bytes);
    }
}

fn attend(isa: Isa, unit: Products, [q, k, v]: [&[f32]; 3], shape: AttentionShape) -> Vec<f32> {
    let mut out = vec![f32::NAN; q.len()];
    attention_by(unit, isa, q, k, v, shape, &mut out).unwrap();
    out
}

fn check_attention(shape: AttentionShape) {
    let width = shape.heads * shape.head_size;
    let q = values(1, shape.n * shape.queries * width);
    let k = values(2, shape.n * shape.keys * width);
    let v = values(3, shape.n * shape.keys * width);
    check(
        "attention",
        |isa, unit| attend(isa, unit, [&q, &k, &v], shape),
        true,
    );
}

#[test]
fn attention_is_the_emulations() {
    check_attention(AttentionShape::new(1, 1, 1, 1, 1));
    check_attention(AttentionShape::new(2, 2, 40, 35, 77));
    check_attention(AttentionShape::new(1, 2, 33, 67, 300));
    check_attention(AttentionShape::new(1, 1, 64, 33, 131));
    check_attention(AttentionShape::new(1, 1, 80, 40, 96));
    check_attention(AttentionShape {
        causal: true,
        ..AttentionShape::new(1, 2, 64, 77, 77)
    });
}

/// A score is off by at most δ = (2⁻⁸ + 2⁻¹⁸ + what f32 loses) of the sum of its products' sizes;
/// scaling the queries first is one more rounding to f32. Its weight then is off by a factor within
/// e^±δ and by what a power of two in 16 bits may be off, 0.0075 (as its own test has it), and the value is
/// rounded by 2⁻⁹; the weights' sum is of the same weights. So the output is off by at most
/// (e^2δ · 1.0075/0.9925 · (1 + 2⁻⁹ + 2⁻¹⁶) − 1) of the sum of the weighted values' sizes, 2⁻¹⁶ for sums in
/// f32. Queries are small, and so are δ and the bound: one key that is lost, or seen behind a
/// causal mask, is more.
#[test]
fn attention_is_within_its_bound() {
    attention_within(AttentionShape::new(1, 1, 40, 50, 33));
    attention_within(AttentionShape {
        causal: true,
        ..AttentionShape::new(1, 1, 40, 40, 40)
    });
    attention_within(AttentionShape::new(1, 1, 40, 50, 300));
    attention_within(AttentionShape::new(1, 1, 64, 20, 70));
}

fn attention_within(shape: AttentionShape) {
    let width = shape.head_size;
    let q = values(1, shape.queries * width);
    let q: Vec<f32> = q.into_iter().map(|x| 0.05 * x).collect();
    let k = values(2, shape.keys * width);
    let v = values(3, shape.keys * width);
    for unit in Products::all() {
        let found = attend(Isa::best(), unit, [&q, &k, &v], shape);
        for (i, row) in q.chunks_exact(width).enumerate() {
            let products = |key: &[f32]| -> Vec<f64> {
                let pairs = row.iter().zip(key);
                pairs
                    .map(|(&a, &b)| f64::from(a) * f64::from(b) * f64::from(shape.scale))
                    .collect()
            };
            let seen = if shape.causal { i + 1 } else { shape.keys };
            let products: Vec<_> = k.chunks_exact(width).take(seen).map(products).collect();
            let scores: Vec<f64> = products.iter().map(|p| p.iter().sum()).collect();
            let sizes = products
                .iter()
                .map(|p| p.iter().map(|x| x.abs()).sum::<f64>());
            let delta = (f64::exp2(-8.0) + f64::exp2(-16.0)) * sizes.fold(0.0, f64::max);
            let sum: f64 = scores.iter().map(|x| x.exp()).sum();
            for c in 0..width {
                let value = |key: usize| f64::from(v[key * width + c]);
                let weighted = scores.iter().enumerate();
                let weighted = weighted.map(|(key, x)| x.exp() / sum * value(key));
                let exact: f64 = weighted.clone().sum();
                let sizes: f64 = weighted.map(f64::abs).sum();
                let rounded = 1.0 + f64::exp2(-9.0) + f64::exp2(-16.0);
                let bound = ((2.0 * delta).exp() * (1.0075 / 0.9925) * rounded - 1.0) * sizes;
                let off = (f64::from(found[i * width + c]) - exact).abs();
                assert!(off <= bound, "{}: off by {off:e} of {bound:e}", unit.name());
            }
        }
    }
}

/// One query of width 1 and scale 1 sees keys whose scores are these, as f32 holds them and bf16 does,
/// and then the values 1, 2, 3, ...; beside it are queries that see none of that.
fn weighted_by(unit: Products, isa: Isa, scores: &[f32]) -> (f32, f64) {
    let shape = AttentionShape {
        scale: 1.0,
        ..AttentionShape::new(1, 1, 1, 3, scores.len())
    };
    let q = [0.0, 1.0, 0.0];
    let v: Vec<f32> = (0..scores.len()).map(|i| (i + 1) as f32).collect();
    let found = attend(isa, unit, [&q, scores, &v], shape);
    let mean = (scores.len() + 1) as f32 / 2.0;
    for (i, at) in [(0, found[0]), (2, found[2])] {
        assert!((at - mean).abs() < 0.02 * mean, "{i}: {at}, of {mean}");
    }
    // log₂e in bf16 is what the query is.
    let exponent = |x: f32| rounded(x) * rounded(std::f32::consts::LOG2_E);
    let top = scores.iter().map(|&x| exponent(x)).fold(f64::MIN, f64::max);
    let weights = scores.iter().map(|&x| (exponent(x) - top).exp2());
    let sum: f64 = weights.clone().sum();
    let values = weights.zip(&v).map(|(w, &v)| w * rounded(v));
    (found[1], values.sum::<f64>() / sum)
}

/// Scores that exceed all before them, by little and by more than any power of two holds, in whichever
/// block; and such as lie as far below.
#[test]
fn any_scores_are_weighted() {
    let count = 200;
    let rising = |step: f32| -> Vec<f32> { (0..count).map(|i| step * i as f32).collect() };
    let mut cases = Vec::new();
    for step in [0.01, 0.25, 1.0, 30.0, 500.0, 1e4, 1e12, 1e30] {
        cases.push(rising(step));
        cases.push(rising(-step));
    }
    for far in [50.0, 3e4, 6e4, 1e9] {
        for place in [0, 63, 64, 130, 199] {
            let mut scores = rising(0.01);
            scores[place] = far;
            cases.push(scores.clone());
            scores[place] = -far;
            cases.push(scores);
        }
    }
    for scores in cases {
        for unit in Products::all() {
            let (found, expected) = weighted_by(unit, Isa::best(), &scores);
            // The values are whole numbers up to 200, which bf16 holds, and each weight is off by 0.0075.
            let off = (f64::from(found) - expected).abs() / expected;
            assert!(
                off < 0.0152,
                "{}: {found}, expected {expected}, of {:?}",
                unit.name(),
                &scores[..3]
            );
        }
    }
}

/// What stands beside a query in the batch does not change a bit of it.
#[test]
fn a_query_is_by_itself_what_it_is_beside_others() {
    let shape = AttentionShape::new(1, 1, 40, 70, 150);
    let mut q = values(1, 70 * 40);
    let (k, v) = (values(2, 150 * 40), values(3, 150 * 40));
    // Some exceed by far in a later block what they saw before.
    for x in q[9 * 40..13 * 40].iter_mut() {
        *x *= 1e3;
    }
    for unit in Products::all() {
        let all = attend(Isa::best(), unit, [&q, &k, &v], shape);
        for i in [0, 9, 11, 14, 40, 69] {
            let one = AttentionShape {
                queries: 1,
                ..shape
            };
            let row = i * 40..(i + 1) * 40;
            let alone = attend(Isa::best(), unit, [&q[row.clone()], &k, &v], one);
            assert_same(unit.name(), &alone, &all[row]);
        }
    }
}

/// Nothing but the query that is no number, or meets an infinite score, is none.
#[test]
fn attention_of_what_is_no_number_is_none() {
    let shape = AttentionShape::new(1, 1, 8, 40, 150);
    let (k, v) = (values(2, 150 * 8), values(3, 150 * 8));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for unit in Products::all() {
            let mut q = values(1, 40 * 8);
            let expected = attend(Isa::best(), unit, [&q, &k, &v], shape);
            q[17 * 8 + 3] = bad;
            let found = attend(Isa::best(), unit, [&q, &k, &v], shape);
            let row = 17 * 8..18 * 8;
            assert!(
                found[row.clone()].iter().all(|x| x.is_nan()),
                "{bad} {}",
                unit.name()
            );
            assert_same(unit.name(), &found[..row.start], &expected[..row.start]);
            assert_same(unit.name(), &found[row.end..], &expected[row.end..]);
            // A key in the last block: seen by all.
            let mut k = k.clone();
            k[149 * 8] = f32::NAN;
            let found = attend(Isa::best(), unit, [&q, &k, &v], shape);
            assert!(found.iter().all(|x| x.is_nan()), "{}", unit.name());
        }
    }
}

/// No number turns into another kind of number.
#[test]
fn infinities_and_nan_come_out() {
    for unit in Products::all() {
        let mut x = values(1, 3 * 40);
        (x[5], x[40 + 6]) = (f32::NAN, f32::INFINITY);
        let w = vec![1.0; 40 * 4];
        let out = linear_by(Isa::best(), unit, &x, &w, [3, 4, 40]);
        assert!(out[..4].iter().all(|x| x.is_nan()), "{}", unit.name());
        assert!(
            out[4..8].iter().all(|&x| x == f32::INFINITY),
            "{}",
            unit.name()
        );
        assert!(out[8..].iter().all(|x| x.is_finite()), "{}", unit.name());
    }
}

/// A weight in bf16 takes half the memory, and what is said of it before it is read is true.
#[test]
fn memory_is_foretold() {
    let (isa, w) = (Isa::best(), values(2, 100 * 90));
    for unit in Products::all() {
        let packed = PackedMatrix::read(isa, &w[..], 100, 90, packing(unit)).unwrap();
        let foretold = PackedMatrix::bytes_of(isa, &w[..], 100, 90, packing(unit)).unwrap();
        assert_eq!(packed.bytes(), foretold);
        let columns = 100usize.next_multiple_of(2 * isa.lanes());
        assert_eq!(packed.bytes(), columns * 96 * 2);
    }
}

/// The bias and all behind the sum are of f32.
#[test]
fn what_follows_the_sum_is_f32() {
    let (x, w) = (vec![1.0; 32], vec![1.0; 32]);
    let (bias, residual) = (values(3, 1), values(4, 1));
    for unit in Products::all() {
        let weight = PackedMatrix::read(Isa::best(), &w[..], 1, 32, packing(unit)).unwrap();
        let mut out = [0.0];
        let epilogue = Epilogue {
            bias: Some(&bias),
            residual: Some(&residual),
            activation: Activation::None,
            rectified: false,
        };
        linear(&x, 1, &weight, epilogue, &mut out).unwrap();
        assert_eq!(out[0], 32.0 + bias[0] + residual[0]);
    }
}

proptest! {
    #![proptest_config(common::cases(24))]

    #[test]
    fn linear_of_any_size(rows in 1usize..70, inputs in 1usize..100, outputs in 1usize..70) {
        check_linear(rows, inputs, outputs);
    }

    #[test]
    fn attention_of_any_size(
        heads in 1usize..3, size in 1usize..70, queries in 1usize..70, keys in 1usize..90,
        causal: bool,
    ) {
        let shape = AttentionShape::new(1, heads, size, queries, keys);
        check_attention(AttentionShape { causal, ..shape });
    }
}
