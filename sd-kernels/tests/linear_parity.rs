//! Linear layers against the definition in f64.

mod common;

use common::{assert_close, each_isa, gelu, quick_gelu, silu, values};
use proptest::prelude::*;
use sd_kernels::{Activation, Epilogue, Isa, PackedGeglu, PackedMatrix, geglu, linear};

fn product(x: &[f32], weight: &[f32], bias: &[f32], inputs: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for row in x.chunks_exact(inputs) {
        for (w, b) in weight.chunks_exact(inputs).zip(bias) {
            let dot: f64 = row
                .iter()
                .zip(w)
                .map(|(&a, &b)| f64::from(a) * f64::from(b))
                .sum();
            out.push(dot + f64::from(*b));
        }
    }
    out
}

fn scaled(seed: u64, len: usize, inputs: usize) -> Vec<f32> {
    let scale = 1.0 / (inputs as f32).sqrt();
    values(seed, len).into_iter().map(|x| x * scale).collect()
}

fn check_linear(rows: usize, inputs: usize, outputs: usize) {
    let x = values(1, rows * inputs);
    let weight = scaled(2, outputs * inputs, inputs);
    let bias = values(3, outputs);
    let residual = values(4, rows * outputs);
    let sums = product(&x, &weight, &bias, inputs);
    each_isa(|isa| {
        let packed = PackedMatrix::new(isa, &weight, outputs, inputs).unwrap();
        for activation in [
            Activation::None,
            Activation::Silu,
            Activation::Gelu,
            Activation::QuickGelu,
        ] {
            let expected: Vec<f64> = sums
                .iter()
                .zip(&residual)
                .map(|(&x, &r)| {
                    let y = match activation {
                        Activation::None => x,
                        Activation::Silu => silu(x),
                        Activation::Gelu => gelu(x),
                        Activation::QuickGelu => quick_gelu(x),
                    };
                    y + f64::from(r)
                })
                .collect();
            let mut out = vec![f32::NAN; rows * outputs];
            let epilogue = Epilogue {
                bias: Some(&bias),
                activation,
                residual: Some(&residual),
                rectified: false,
            };
            linear(&x, rows, &packed, epilogue, &mut out).unwrap();
            let what = format!("{} {activation:?} {rows}×{inputs}→{outputs}", isa.name());
            assert_close(&what, &out, &expected, 2e-6);
        }
        let mut out = vec![f32::NAN; rows * outputs];
        linear(&x, rows, &packed, Epilogue::default(), &mut out).unwrap();
        let plain = product(&x, &weight, &vec![0.0; outputs], inputs);
        assert_close(isa.name(), &out, &plain, 2e-6);
    });
}

fn check_geglu(rows: usize, inputs: usize, columns: usize) {
    let x = values(1, rows * inputs);
    let weight = scaled(2, 2 * columns * inputs, inputs);
    let bias = values(3, 2 * columns);
    let sums = product(&x, &weight, &bias, inputs);
    let gated = |sums: &[f64]| -> Vec<f64> {
        let rows = sums.chunks_exact(2 * columns);
        rows.flat_map(|row| (0..columns).map(|c| row[c] * gelu(row[columns + c])))
            .collect()
    };
    let beside = values(5, sums.len());
    let more: Vec<f64> = (sums.iter().zip(&beside))
        .map(|(sum, x)| sum + f64::from(*x))
        .collect();
    each_isa(|isa| {
        let packed = PackedGeglu::new(isa, &weight, columns, inputs).unwrap();
        for (beside, sums) in [(None, &sums), (Some(&beside[..]), &more)] {
            let mut out = vec![f32::NAN; rows * columns];
            geglu(&x, rows, &packed, Some(&bias), beside, &mut out).unwrap();
            let what = format!("{} geglu {rows}×{inputs}→{columns}", isa.name());
            assert_close(&what, &out, &gated(sums), 3e-6);
        }
    });
}

#[test]
fn linear_layers_of_the_networks() {
    for (rows, inputs, outputs) in [
        (1, 1, 1),
        (2, 320, 1280),
        (77, 768, 320),
        (130, 320, 96),
        (29, 1300, 33),
    ] {
        check_linear(rows, inputs, outputs);
    }
}

#[test]
fn gated_layers() {
    for (rows, inputs, columns) in [(1, 1, 1), (65, 320, 128), (7, 40, 33), (3, 1300, 5)] {
        check_geglu(rows, inputs, columns);
    }
}

#[test]
fn any_number_of_threads() {
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            check_linear(700, 48, 130);
            check_linear(2, 96, 1024);
            check_geglu(300, 64, 100);
        });
    }
}

#[test]
fn an_empty_batch_is_no_error() {
    let packed = PackedMatrix::new(Isa::best(), &[1.0; 6], 2, 3).unwrap();
    linear(&[], 0, &packed, Epilogue::default(), &mut []).unwrap();
}

#[test]
fn what_does_not_fit_is_an_error() {
    assert!(PackedMatrix::new(Isa::best(), &[0.0; 5], 2, 3).is_err());
    assert!(PackedMatrix::new(Isa::best(), &[0.0; 5], usize::MAX, 3).is_err());
    let packed = PackedMatrix::new(Isa::best(), &[1.0; 6], 2, 3).unwrap();
    let mut out = [0.0; 2];
    let error = linear(&[0.0; 4], 1, &packed, Epilogue::default(), &mut out).unwrap_err();
    assert_eq!(error.to_string(), "the input has 4 elements, expected 3");
    assert!(linear(&[0.0; 3], 1, &packed, Epilogue::default(), &mut out[..1]).is_err());
    let epilogue = Epilogue {
        residual: Some(&[0.0; 3]),
        ..Epilogue::default()
    };
    assert!(linear(&[0.0; 3], 1, &packed, epilogue, &mut out).is_err());
}

proptest! {
    #![proptest_config(common::cases(48))]

    #[test]
    fn linear_of_any_size(rows in 1usize..60, inputs in 1usize..90, outputs in 1usize..90) {
        check_linear(rows, inputs, outputs);
    }

    #[test]
    fn geglu_of_any_size(rows in 1usize..60, inputs in 1usize..60, columns in 1usize..60) {
        check_geglu(rows, inputs, columns);
    }
}
