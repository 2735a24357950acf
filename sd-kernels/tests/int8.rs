//! Products of int8: each instruction against the emulation, bit for bit, that against the whole
//! numbers' own sums, and all against sums in f64.

mod common;

use common::{each_isa, values};
use proptest::prelude::*;
use sd_kernels::{
    ConvShape, DType, Epilogue, Held, Int8, Isa, PackedConv, PackedGeglu, PackedMatrix, Packing,
    Picture, Products, WeightStorage, geglu, linear,
};

fn packing(int8: Int8) -> Packing {
    Packing {
        storage: WeightStorage::F32,
        products: Products::F32.with_int8(Some(int8)),
    }
}

/// Rows of all sizes, some of them zero or too small to count.
fn uneven(seed: u64, rows: usize, inputs: usize) -> Vec<f32> {
    let mut values = values(seed, rows * inputs);
    for (i, row) in values.chunks_exact_mut(inputs).enumerate() {
        let factor = [1.0, 1e4, 3e-20, 0.0, 1e-37, 1e-3][i % 6];
        row.iter_mut().for_each(|x| *x *= factor);
    }
    values
}

/// What `compute` makes by every unit on every instruction set is what the emulation makes on the
/// portable one, or where results go through functions that differ between sets, on the same.
fn check(what: &str, compute: impl Fn(Isa, Int8) -> Vec<f32>, exact: bool) {
    let emulation = *Int8::all().last().unwrap();
    assert_eq!(emulation.name(), "emulated");
    let mut expected = compute(Isa::portable(), emulation);
    each_isa(|isa| {
        if !exact {
            expected = compute(isa, emulation);
        }
        for unit in Int8::all() {
            let found = compute(isa, unit);
            for (i, (x, y)) in found.iter().zip(&expected).enumerate() {
                let (unit, isa) = (unit.name(), isa.name());
                assert!(
                    x.to_bits() == y.to_bits(),
                    "{what}, {unit}, {isa}, at {i}: {x:e}, expected {y:e}"
                );
            }
        }
    });
}

fn linear_by(
    isa: Isa,
    unit: Int8,
    x: &[f32],
    w: &[f32],
    [rows, outputs, inputs]: [usize; 3],
) -> Vec<f32> {
    let weight = PackedMatrix::read(isa, w, outputs, inputs, packing(unit)).unwrap();
    assert_eq!(weight.held(), Held::Int8);
    assert_eq!(weight.products().name(), "int8");
    let mut out = vec![f32::NAN; rows * outputs];
    linear(x, rows, &weight, Epilogue::default(), &mut out).unwrap();
    out
}

/// Whole numbers of a row, and their scale.
fn quantized(row: &[f32]) -> (Vec<i64>, f64) {
    let largest = row.iter().fold(0.0f32, |a, x| a.max(x.abs()));
    if largest < 1e-36 {
        return (vec![0; row.len()], 0.0);
    }
    let whole = |x: &f32| (x * (127.0 / largest)).round_ties_even() as i64;
    (
        row.iter().map(whole).collect(),
        f64::from(largest / 127.0f32),
    )
}

/// A sum is rounded as it is made f32 and twice as it is scaled, each time by at most u = 2⁻²⁴ of it.
/// Of an exact product with inputs that are not rounded, both factors are off by at most half a step,
/// which is a 127th of the largest, and by two roundings of the factor that makes whole numbers.
fn check_linear(rows: usize, inputs: usize, outputs: usize) {
    let x = uneven(1, rows, inputs);
    let w = values(2, outputs * inputs);
    let size = [rows, outputs, inputs];
    let what = format!("{rows}×{inputs}×{outputs}");
    check(&what, |isa, unit| linear_by(isa, unit, &x, &w, size), true);

    let found = linear_by(Isa::best(), Int8::all()[0], &x, &w, size);
    let columns: Vec<_> = w.chunks_exact(inputs).map(quantized).collect();
    for (row, found) in x.chunks_exact(inputs).zip(found.chunks_exact(outputs)) {
        let (whole, scale) = quantized(row);
        for (((column, column_scale), w), &y) in
            columns.iter().zip(w.chunks_exact(inputs)).zip(found)
        {
            // Longer rows have a scale for each part.
            if inputs <= 1280 {
                let sum: i64 = whole.iter().zip(column).map(|(a, b)| a * b).sum();
                let sum = sum as f64 * scale * column_scale;
                let off = (f64::from(y) - sum).abs();
                assert!(
                    off <= 4.0 * f64::exp2(-24.0) * sum.abs() + 1e-44,
                    "{what}: {y:e}, {sum:e}"
                );
            }
            let pairs = || {
                row.iter()
                    .zip(w)
                    .map(|(&a, &b)| (f64::from(a), f64::from(b)))
            };
            let exact: f64 = pairs().map(|(a, b)| a * b).sum();
            let [a_off, b_off] = [scale, *column_scale].map(|scale| 0.5001 * scale);
            let bound = pairs().map(|(a, b)| a.abs() * b_off + a_off * (b.abs() + b_off));
            let bound: f64 = bound.sum::<f64>() + inputs as f64 * 1e-36;
            let off = (f64::from(y) - exact).abs();
            assert!(off <= bound, "{what}: off by {off:e} of {bound:e}");
        }
    }
}

#[test]
fn linear_layers_are_sums_of_whole_numbers() {
    for (rows, inputs, outputs) in [
        (1, 17, 1),
        (33, 31, 17),
        (16, 64, 32),
        (70, 1279, 45),
        (9, 1281, 33),
        (5, 2600, 3),
    ] {
        check_linear(rows, inputs, outputs);
    }
}

#[test]
fn gated_layers_are_the_emulations() {
    for (rows, inputs, columns) in [(1, 17, 1), (37, 90, 21), (40, 320, 64), (3, 1400, 5)] {
        let (x, w) = (values(1, rows * inputs), values(2, 2 * columns * inputs));
        let bias = values(3, 2 * columns);
        let by = |isa, packing: Packing| {
            let weight = PackedGeglu::read(isa, &w[..], columns, inputs, packing).unwrap();
            let foretold = PackedGeglu::bytes_of(isa, &w[..], columns, inputs, packing);
            assert_eq!(weight.bytes(), foretold.unwrap());
            let mut out = vec![f32::NAN; rows * columns];
            geglu(&x, rows, &weight, Some(&bias), None, &mut out).unwrap();
            out
        };
        check("geglu", |isa, unit| by(isa, packing(unit)), false);
        // Values and gates are each off by no more than the bound of a linear layer.
        let off = 0.5001 * inputs as f32 * (2.0 + 0.5001 / 127.0) / 127.0;
        let exact = by(Isa::portable(), Packing::default());
        let found = by(Isa::best(), packing(Int8::all()[0]));
        for (found, exact) in found.iter().zip(&exact) {
            // |value| and |gate| ≤ inputs + 1; the GELU's slope is at most 1.13.
            let bound = off * (inputs as f32 + 1.0) + 1.13 * off * (inputs as f32 + 1.0 + off);
            assert!((found - exact).abs() <= bound);
        }
    }
}

/// As the linear layers that they are, enlarged or not.
#[test]
fn convolutions_of_single_pixels_are_linear() {
    let picture = Picture {
        n: 2,
        height: 5,
        width: 7,
    };
    let (inputs, outputs) = (33, 20);
    let x = values(1, 2 * 5 * 7 * inputs);
    let w = values(2, outputs * inputs);
    let shape = ConvShape::same(inputs, outputs, 1);
    let by = |isa, unit, upsample| {
        let weight = PackedConv::read(isa, &w[..], shape, packing(unit)).unwrap();
        assert_eq!(weight.held(), Held::Int8);
        let foretold = PackedConv::bytes_of(isa, &w[..], shape, packing(unit));
        assert_eq!(weight.bytes(), foretold.unwrap());
        let pixels = 2 * 5 * 7 * if upsample { 4 } else { 1 };
        let mut out = vec![f32::NAN; pixels * outputs];
        let epilogue = Epilogue::default();
        (weight.forward_as(upsample, &x, picture, epilogue, &mut out)).unwrap();
        out
    };
    check("1×1", |isa, unit| by(isa, unit, false), true);
    check(
        "1×1 of twice the size",
        |isa, unit| by(isa, unit, true),
        true,
    );
    let plain = by(Isa::best(), Int8::all()[0], false);
    let size = [2 * 5 * 7, outputs, inputs];
    assert_eq!(plain, linear_by(Isa::best(), Int8::all()[0], &x, &w, size));
    for (i, pixel) in by(Isa::best(), Int8::all()[0], true)
        .chunks_exact(outputs)
        .enumerate()
    {
        let (n, y, x) = (i / (10 * 14), i / 14 % 10 / 2, i % 14 / 2);
        assert_eq!(pixel, &plain[((n * 5 + y) * 7 + x) * outputs..][..outputs]);
    }
}

/// Calls `add` with each pair of factors that a convolution sums for one output, but for its padding.
fn convolved<T: Copy>(
    (x, w): (&[T], &[T]),
    (picture, shape): (Picture, ConvShape),
    [n, row, column, output]: [usize; 4],
    mut add: impl FnMut(T, T),
) {
    let ConvShape { inputs, kernel, .. } = shape;
    let shift = usize::from(shape.upsample);
    for (i, j) in (0..kernel * kernel).map(|tap| (tap / kernel, tap % kernel)) {
        let place = |at: usize, tap: usize, side: usize| {
            let at = (at + tap).checked_sub(shape.pad_before)? >> shift;
            (at < side).then_some(at)
        };
        let y = place(row, i, picture.height);
        let Some((y, x_at)) = y.zip(place(column, j, picture.width)) else {
            continue;
        };
        for c in 0..inputs {
            let pixel = ((n * picture.height + y) * picture.width + x_at) * inputs + c;
            add(
                x[pixel],
                w[((output * inputs + c) * kernel + i) * kernel + j],
            );
        }
    }
}

/// By every unit that convolves the same bits; the whole numbers' own sums; and beside f64 half a step
/// for each factor, as of linear layers, where a picture has one scale.
fn check_convolution(picture: Picture, shape: ConvShape) {
    let size = picture.height * picture.width * shape.inputs;
    let mut x = values(1, picture.n * size);
    // Each picture is of another size, and the last but one zero.
    for (i, picture) in x.chunks_exact_mut(size).enumerate() {
        let factor = [1.0, 1e3, 0.0, 1e-3][i % 4];
        picture.iter_mut().for_each(|x| *x *= factor);
    }
    let depth = shape.inputs * shape.kernel * shape.kernel;
    let w = values(2, shape.outputs * depth);
    let (height, width) = shape.output(picture).unwrap();
    let outputs = shape.outputs;
    let by = |isa, unit: Int8| {
        let weight = PackedConv::read(isa, &w[..], shape, packing(unit)).unwrap();
        let foretold = PackedConv::bytes_of(isa, &w[..], shape, packing(unit));
        assert_eq!(weight.bytes(), foretold.unwrap());
        let convolves = unit.name() != "dot";
        assert_eq!(weight.held() == Held::Int8, convolves, "{}", unit.name());
        let mut out = vec![f32::NAN; picture.n * height * width * outputs];
        let epilogue = Epilogue::default();
        weight.forward(&x, picture, epilogue, &mut out).unwrap();
        out
    };
    let what = format!("{picture:?} {shape:?}");
    let emulation = *Int8::all().last().unwrap();
    let found = by(Isa::portable(), emulation);
    each_isa(|isa| {
        for unit in Int8::all() {
            let own = by(isa, unit);
            if unit.name() != "dot" {
                let (unit, isa) = (unit.name(), isa.name());
                let same = own
                    .iter()
                    .zip(&found)
                    .all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{what}, {unit}, {isa}");
            }
        }
    });

    let columns: Vec<_> = w.chunks_exact(depth).map(quantized).collect();
    let whole_w: Vec<i64> = columns.iter().flat_map(|column| column.0.clone()).collect();
    let pictures: Vec<_> = x.chunks_exact(size).map(quantized).collect();
    let whole_x: Vec<i64> = pictures
        .iter()
        .flat_map(|picture| picture.0.clone())
        .collect();
    for (i, &y) in found.iter().enumerate() {
        let (pixel, output) = (i / outputs, i % outputs);
        let n = pixel / (height * width);
        let at = [n, pixel / width % height, pixel % width, output];
        let (scale, column_scale) = (pictures[n].1, columns[output].1);
        let mut whole = 0;
        convolved((&whole_x, &whole_w), (picture, shape), at, |a, b| {
            whole += a * b;
        });
        let sum = whole as f64 * scale * column_scale;
        let off = (f64::from(y) - sum).abs();
        assert!(
            off <= 4.0 * f64::exp2(-24.0) * sum.abs(),
            "{what} at {i}: {y:e}, {sum:e}"
        );
        let (mut exact, mut bound) = (0.0, 0.0);
        let [a_off, b_off] = [scale, column_scale].map(|scale| 0.5001 * scale);
        convolved((&x, &w), (picture, shape), at, |a, b| {
            let (a, b) = (f64::from(a), f64::from(b));
            exact += a * b;
            bound += a.abs() * b_off + a_off * (b.abs() + b_off);
        });
        let off = (f64::from(y) - exact).abs();
        assert!(off <= bound, "{what} at {i}: off by {off:e} of {bound:e}");
    }
}

#[test]
fn convolutions_are_sums_of_whole_numbers() {
    let picture = |n, height, width| Picture { n, height, width };
    check_convolution(picture(4, 5, 7), ConvShape::same(64, 33, 3));
    check_convolution(picture(1, 9, 70), ConvShape::same(128, 32, 3));
    check_convolution(picture(2, 3, 4), ConvShape::same(64, 40, 3).upsampled());
    check_convolution(picture(1, 6, 5), ConvShape::same(64, 34, 5));
    let uneven = ConvShape {
        pad_before: 0,
        ..ConvShape::same(704, 32, 3)
    };
    check_convolution(picture(1, 4, 3), uneven);
}

/// The same bits on any number of threads, though these cut a picture otherwise, and of a batch those of
/// its pictures.
#[test]
fn convolutions_do_not_know_their_threads() {
    let (shape, picture) = (
        ConvShape::same(64, 64, 3),
        Picture {
            n: 2,
            height: 67,
            width: 31,
        },
    );
    let size = 67 * 31 * 64;
    let (x, w) = (values(1, 2 * size), values(2, 64 * 64 * 9));
    let weight = PackedConv::read(Isa::best(), &w[..], shape, packing(Int8::all()[0])).unwrap();
    let by = |x: &[f32], n| {
        let mut out = vec![f32::NAN; n * size];
        let (picture, epilogue) = (Picture { n, ..picture }, Epilogue::default());
        weight.forward(x, picture, epilogue, &mut out).unwrap();
        out
    };
    let expected = by(&x, 2);
    for threads in [1, 3, 8] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        assert_eq!(pool.unwrap().install(|| by(&x, 2)), expected);
    }
    for (x, expected) in x.chunks_exact(size).zip(expected.chunks_exact(size)) {
        assert_eq!(by(x, 1), expected);
    }
}

/// A number that is none takes its own picture along and no other.
#[test]
fn a_picture_that_is_not_finite_comes_out() {
    let shape = ConvShape::same(64, 32, 3);
    let picture = Picture {
        n: 3,
        height: 4,
        width: 4,
    };
    let w = values(2, 32 * 64 * 9);
    for (place, wrong) in [(5, f32::NAN), (1000, f32::INFINITY)] {
        let mut x = values(1, 3 * 16 * 64);
        x[1024 + place] = wrong;
        for unit in Int8::all() {
            let weight = PackedConv::read(Isa::best(), &w[..], shape, packing(unit)).unwrap();
            let mut out = vec![0.0; 3 * 16 * 32];
            (weight.forward(&x, picture, Epilogue::default(), &mut out)).unwrap();
            let finite = out
                .chunks_exact(512)
                .map(|x| x.iter().all(|x| x.is_finite()));
            assert_eq!(finite.collect::<Vec<_>>(), [true, false, true]);
            if unit.name() != "dot" {
                assert!(out[512..1024].iter().all(|x| x.is_nan()));
            }
        }
    }
}

/// Convolutions that are not multiplied in strips, or gain nothing, are as without int8.
#[test]
fn other_convolutions_stay() {
    let strided = ConvShape {
        stride: 2,
        ..ConvShape::same(64, 64, 3)
    };
    let few = ConvShape::same(64, 31, 3);
    let uneven = ConvShape::same(96, 64, 3);
    for shape in [strided, few, uneven] {
        let w = values(2, shape.outputs * shape.inputs * 9);
        for rest in [Products::F32, Products::all()[0]] {
            let [with, without] = [Some(Int8::all()[0]), None].map(|int8| {
                let packing = Packing {
                    storage: WeightStorage::F32,
                    products: rest.with_int8(int8),
                };
                let packed = PackedConv::read(Isa::best(), &w[..], shape, packing).unwrap();
                (packed.held(), packed.products(), packed.bytes())
            });
            assert_eq!(with, without);
        }
    }
}

/// A weight that int8 is too coarse for stays in the other precision, and the same is foretold.
#[test]
fn what_loses_too_much_stays() {
    let (isa, rest) = (Isa::best(), Products::all()[0]);
    let held = |w: &[f32], storage, rest: Products, depth| {
        let products = rest.with_int8(Some(Int8::all()[0]));
        let packing = Packing { storage, products };
        let packed = PackedMatrix::read(isa, w, w.len() / depth, depth, packing).unwrap();
        let foretold = PackedMatrix::bytes_of(isa, w, w.len() / depth, depth, packing).unwrap();
        assert_eq!(packed.bytes(), foretold);
        let expected = if packed.held() == Held::Int8 {
            "int8"
        } else {
            rest.name()
        };
        assert_eq!(packed.products().name(), expected);
        packed.held()
    };
    let f32 = Held::Numbers(DType::F32);
    let even = values(1, 40 * 320);
    assert_eq!(
        held(&even, WeightStorage::F32, Products::F32, 320),
        Held::Int8
    );
    assert_eq!(held(&even, WeightStorage::AsStored, rest, 320), Held::Int8);
    assert_eq!(held(&even, WeightStorage::Q8, rest, 320), Held::Int8);
    let blocks = held(&even, WeightStorage::Q4, rest, 320);
    assert!(matches!(blocks, Held::Blocks(_)), "fewer bits: {blocks:?}");
    // Filled up to 64 terms and with its scales it would take more.
    for (depth, rest, expected) in [(16, Products::F32, f32), (32, rest, Held::Pairs)] {
        assert_eq!(held(&even, WeightStorage::F32, rest, depth), expected);
    }

    // A number of 1 among 319 of u has the step 1/127, so the error is 1/(127·√12) beside √(u² + 1/320):
    // 2 % where u is 0.099, as all numbers of the rest are rounded as if evenly spread.
    for (rest_size, expected) in [(0.12, Held::Int8), (0.08, f32)] {
        let mut w: Vec<f32> = values(1, 40 * 320);
        for row in w.chunks_exact_mut(320) {
            row.iter_mut().for_each(|x| *x *= 3f32.sqrt() * rest_size);
            row[7] = 1.0;
        }
        assert_eq!(held(&w, WeightStorage::F32, Products::F32, 320), expected);
        let pairs = if expected == f32 {
            Held::Pairs
        } else {
            expected
        };
        assert_eq!(held(&w, WeightStorage::F32, rest, 320), pairs);
    }
    for wrong in [f32::NAN, f32::INFINITY] {
        let mut w = even.clone();
        w[1234] = wrong;
        assert_eq!(held(&w, WeightStorage::F32, Products::F32, 320), f32);
    }
    // Sums that an i32 might not hold.
    let long = vec![1.0; (1 << 17) + 1];
    assert_eq!(
        held(&long, WeightStorage::F32, Products::F32, long.len()),
        f32
    );
    assert_eq!(
        held(&long[1..], WeightStorage::F32, Products::F32, 1 << 17),
        Held::Int8
    );
}

/// The longest sum of the largest numbers, whose gates see it whole.
#[test]
fn no_sum_is_too_large() {
    let depth = 1 << 17;
    let ones = vec![1.0; 2 * depth];
    each_isa(|isa| {
        for unit in Int8::all() {
            let weight = PackedGeglu::read(isa, &ones[..], 1, depth, packing(unit)).unwrap();
            let mut out = [0.0];
            geglu(&ones[..depth], 1, &weight, None, None, &mut out).unwrap();
            let (found, expected) = (out[0] / depth as f32, depth as f32);
            assert!(
                (found / expected - 1.0).abs() < 1e-6,
                "{}: {found}",
                unit.name()
            );
        }
    });
}

/// A number that is none takes its own row along and no other.
#[test]
fn what_is_not_finite_comes_out() {
    let w = vec![1.0; 40 * 4];
    each_isa(|isa| {
        for unit in Int8::all() {
            let mut x = values(1, 3 * 40);
            (x[5], x[40 + 6]) = (f32::NAN, f32::INFINITY);
            let out = linear_by(isa, unit, &x, &w, [3, 4, 40]);
            assert!(out[..8].iter().all(|x| x.is_nan()), "{}", unit.name());
            assert!(out[8..].iter().all(|x| x.is_finite()), "{}", unit.name());
        }
    });
}

/// A byte a number, and a scale for each column.
#[test]
fn memory_is_a_byte_a_number() {
    let (isa, w) = (Isa::best(), values(2, 100 * 90));
    let packed = PackedMatrix::read(isa, &w[..], 100, 90, packing(Int8::all()[0])).unwrap();
    let columns = 100usize.next_multiple_of(2 * isa.lanes());
    assert_eq!(packed.bytes(), columns * (128 + 4));
}

proptest! {
    #![proptest_config(common::cases(24))]

    #[test]
    fn linear_of_any_size(rows in 1usize..71, inputs in 17usize..200, outputs in 1usize..70) {
        check_linear(rows, inputs, outputs);
    }
}
