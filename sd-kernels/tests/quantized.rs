//! Weights that stay quantised against the numbers that their blocks stand for, in f32: the same
//! bits.

mod common;

use std::ops::Range;

use common::{each_isa, values};
use half::f16;
use proptest::prelude::*;
use sd_kernels::{
    Algorithm, Blocks, ConvShape, DType, Epilogue, Held, Isa, PackedConv, PackedGeglu,
    PackedMatrix, Packing, Picture, Products, WeightRows, WeightStorage, geglu, linear,
};

/// A weight of blocks as a GGUF file has them: any bits, scales and numbers alike.
struct File {
    blocks: Blocks,
    /// Terms of a row.
    depth: usize,
    bytes: Vec<u8>,
}

impl File {
    fn new(blocks: Blocks, rows: usize, depth: usize) -> Self {
        let mut bytes = Vec::new();
        let random = values(5, rows * depth / 32 * (blocks.bytes() - 1));
        for block in random.chunks_exact(blocks.bytes() - 1) {
            // Scales of either sign, and such as are not normal.
            bytes.extend(f16::from_f32(block[0] * block[0] * block[0] * 0.01).to_le_bytes());
            bytes.extend(block[1..].iter().map(|x| (x * 128.0).floor() as i8 as u8));
        }
        Self {
            blocks,
            depth,
            bytes,
        }
    }

    /// The numbers, as ggml's `dequantize_row_q8_0` and `dequantize_row_q4_0` make them.
    fn numbers(&self) -> Vec<f32> {
        let mut all = Vec::new();
        for block in self.bytes.chunks_exact(self.blocks.bytes()) {
            let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
            match self.blocks {
                Blocks::Q8 => all.extend(block[2..].iter().map(|&q| f32::from(q as i8) * d)),
                Blocks::Q4 => {
                    all.extend(block[2..].iter().map(|q| (f32::from(q & 15) - 8.0) * d));
                    all.extend(block[2..].iter().map(|q| (f32::from(q >> 4) - 8.0) * d));
                }
            }
        }
        all
    }
}

impl WeightRows for File {
    type Error = sd_kernels::Error;

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn blocks(&self) -> Option<Blocks> {
        Some(self.blocks)
    }

    fn read_blocks(&self, rows: Range<usize>, to: &mut [u8]) -> sd_kernels::Result<()> {
        let row = self.depth / 32 * self.blocks.bytes();
        to.copy_from_slice(&self.bytes[rows.start * row..rows.end * row]);
        Ok(())
    }

    fn read(&self, rows: Range<usize>, to: &mut [u8]) -> sd_kernels::Result<()> {
        let numbers = &self.numbers()[rows.start * self.depth..rows.end * self.depth];
        for (to, x) in to.chunks_exact_mut(4).zip(numbers) {
            to.copy_from_slice(&x.to_ne_bytes());
        }
        Ok(())
    }
}

#[track_caller]
fn assert_same(found: &[f32], expected: &[f32]) {
    for (i, (x, y)) in found.iter().zip(expected).enumerate() {
        assert!(x.to_bits() == y.to_bits(), "at {i}: {x:e}, expected {y:e}");
    }
}

fn held(blocks: Blocks) -> Held {
    match blocks {
        Blocks::Q8 => Held::Q8,
        Blocks::Q4 => Held::Q4,
    }
}

fn product<W: WeightRows<Error = sd_kernels::Error> + ?Sized>(
    isa: Isa,
    weight: &W,
    packing: Packing,
    [rows, outputs, inputs]: [usize; 3],
) -> (Held, Vec<f32>) {
    let packed = PackedMatrix::read(isa, weight, outputs, inputs, packing).unwrap();
    let foretold = PackedMatrix::bytes_of(isa, weight, outputs, inputs, packing);
    assert_eq!(packed.bytes(), foretold);
    let x = values(1, rows * inputs);
    let mut out = vec![f32::NAN; rows * outputs];
    linear(&x, rows, &packed, Epilogue::default(), &mut out).unwrap();
    (packed.held(), out)
}

/// By products of f32 and of bf16, which round what the blocks stand for.
fn check_linear(rows: usize, inputs: usize, outputs: usize) {
    for blocks in [Blocks::Q8, Blocks::Q4] {
        let file = File::new(blocks, outputs, inputs);
        let numbers = file.numbers();
        let all = Products::all().into_iter().chain([Products::F32]);
        for products in all {
            each_isa(|isa| {
                let storage = WeightStorage::F32;
                let sizes = [rows, outputs, inputs];
                let plain = Packing { storage, products };
                let (_, expected) = product(isa, &numbers[..], plain, sizes);
                for storage in [WeightStorage::AsStored, WeightStorage::Q8] {
                    let (found, out) = product(isa, &file, Packing { storage, products }, sizes);
                    assert_eq!(found, held(blocks));
                    assert_same(&out, &expected);
                }
                let (found, out) = product(isa, &file, plain, sizes);
                assert!(found == Held::Numbers(DType::F32) || found == Held::Pairs);
                assert_same(&out, &expected);
            });
        }
    }
}

#[test]
fn linear_layers_of_a_files_blocks() {
    for (rows, inputs, outputs) in [(1, 32, 1), (37, 320, 65), (5, 1312, 33)] {
        check_linear(rows, inputs, outputs);
    }
}

#[test]
fn gated_layers_of_a_files_blocks() {
    let (rows, inputs, columns) = (19, 96, 21);
    let x = values(1, rows * inputs);
    for blocks in [Blocks::Q8, Blocks::Q4] {
        let file = File::new(blocks, 2 * columns, inputs);
        each_isa(|isa| {
            let run = |weight: PackedGeglu| {
                let mut out = vec![f32::NAN; rows * columns];
                geglu(&x, rows, &weight, None, None, &mut out).unwrap();
                out
            };
            let stored = WeightStorage::AsStored;
            let found = run(PackedGeglu::read(isa, &file, columns, inputs, stored).unwrap());
            let expected = run(PackedGeglu::new(isa, &file.numbers(), columns, inputs).unwrap());
            assert_same(&found, &expected);
        });
    }
}

/// The nearest multiples of the scale, by columns of the identity: a row of the product then is a
/// term of the weight.
fn kept(isa: Isa, weight: &[f32], inputs: usize, storage: WeightStorage) -> Vec<f32> {
    let outputs = weight.len() / inputs;
    let packed = PackedMatrix::read(isa, weight, outputs, inputs, storage).unwrap();
    let mut identity = vec![0.0; inputs * inputs];
    (0..inputs).for_each(|i| identity[i * inputs + i] = 1.0);
    let mut out = vec![0.0; inputs * outputs];
    linear(&identity, inputs, &packed, Epilogue::default(), &mut out).unwrap();
    let term = |i: usize| out[i % inputs * outputs + i / inputs];
    (0..weight.len()).map(term).collect()
}

/// A scale is the largest size over 127 (over −8), rounded to f16 by at most 2⁻¹¹ of it; a number
/// is off by half a scale, or at the end by the rounding of 127 (8) scales and for −8 a whole one.
#[test]
fn rounding_is_to_the_nearest() {
    let (inputs, outputs) = (96, 5);
    let weight = values(7, inputs * outputs);
    for (storage, levels, end) in [
        (WeightStorage::Q8, 127.0, 0.0),
        (WeightStorage::Q4, 8.0, 0.5),
    ] {
        each_isa(|isa| {
            let found = kept(isa, &weight, inputs, storage);
            for (x, y) in weight.chunks_exact(32).zip(found.chunks_exact(32)) {
                let scale = x.iter().fold(0.0f32, |a, b| a.max(b.abs())) / levels;
                let bound = scale * (0.5 + end + levels * f32::exp2(-11.0)) * 1.001;
                for (x, y) in x.iter().zip(y) {
                    assert!(
                        (x - y).abs() <= bound,
                        "{storage:?}: {x} became {y}, scale {scale}"
                    );
                }
            }
        });
    }
}

/// What is already made of such numbers stays the same.
#[test]
fn rounding_twice_is_rounding_once() {
    for storage in [WeightStorage::Q8, WeightStorage::Q4] {
        let weight = values(7, 64 * 3);
        let once = kept(Isa::best(), &weight, 64, storage);
        assert_same(&kept(Isa::best(), &once, 64, storage), &once);
    }
}

#[test]
fn blocks_of_unusual_numbers() {
    for storage in [WeightStorage::Q8, WeightStorage::Q4] {
        let tiny = kept(Isa::best(), &[1e-9; 32], 32, storage);
        assert!(tiny.iter().all(|x| x.abs() <= 1e-9));
        assert!(
            kept(Isa::best(), &[0.0; 32], 32, storage)
                .iter()
                .all(|&x| x == 0.0)
        );
        let huge = kept(Isa::best(), &[1e30; 32], 32, storage);
        assert!(huge.iter().all(|x| x.is_finite() && *x > 5e5), "{huge:?}");
        let mut broken = vec![1.0; 32];
        broken[3] = f32::NAN;
        assert!(
            kept(Isa::best(), &broken, 32, storage)
                .iter()
                .all(|x| x.is_nan())
        );
    }
}

/// In the order in which a convolution multiplies: 32 inputs of a tap share a scale. Winograd's
/// algorithms and the direct sum read the same numbers.
#[test]
fn convolutions_by_every_algorithm() {
    let shape = ConvShape::same(64, 35, 3);
    let picture = Picture {
        n: 1,
        height: 9,
        width: 8,
    };
    let weight = values(2, shape.outputs * shape.inputs * 9);
    let x = values(1, 72 * shape.inputs);
    for storage in [WeightStorage::Q8, WeightStorage::Q4] {
        each_isa(|isa| {
            // The rounded weight, by a linear layer of each tap.
            let mut rounded = vec![0.0; weight.len()];
            for tap in 0..9 {
                let taps: Vec<f32> = weight.iter().skip(tap).step_by(9).copied().collect();
                let taps = kept(isa, &taps, shape.inputs, storage);
                rounded
                    .iter_mut()
                    .skip(tap)
                    .step_by(9)
                    .zip(taps)
                    .for_each(|(to, x)| *to = x);
            }
            let packed = PackedConv::read(isa, &weight[..], shape, storage).unwrap();
            assert_eq!(
                packed.bytes(),
                PackedConv::bytes_of(isa, &weight[..], shape, storage)
            );
            let plain = PackedConv::new(isa, &rounded, shape).unwrap();
            for algorithm in [
                Algorithm::Direct,
                Algorithm::Winograd2,
                Algorithm::Winograd4,
                Algorithm::Winograd6,
            ] {
                let run = |packed: &PackedConv| {
                    let mut out = vec![f32::NAN; 72 * shape.outputs];
                    let plain = Epilogue::default();
                    packed
                        .forward_by(algorithm, &x, picture, plain, &mut out)
                        .unwrap();
                    out
                };
                assert_same(&run(&packed), &run(&plain));
            }
        });
    }
}

/// 8.5 and 4.5 bits a number, and in whole numbers what makes no blocks.
#[test]
fn memory_is_a_fraction() {
    let (isa, weight) = (Isa::best(), values(2, 64 * 96));
    let bytes = |inputs: usize, storage| {
        let outputs = 64 * 96 / inputs;
        let packed = PackedMatrix::read(isa, &weight[..], outputs, inputs, storage).unwrap();
        (packed.held(), packed.bytes())
    };
    assert_eq!(bytes(96, WeightStorage::Q8), (Held::Q8, 64 * 96 * 34 / 32));
    assert_eq!(bytes(96, WeightStorage::Q4), (Held::Q4, 64 * 96 * 18 / 32));
    assert_eq!(bytes(48, WeightStorage::Q8).0, Held::Numbers(DType::F32));
}

proptest! {
    #![proptest_config(common::cases(24))]

    #[test]
    fn linear_of_any_size(rows in 1usize..40, blocks in 1usize..4, outputs in 1usize..70) {
        check_linear(rows, 32 * blocks, outputs);
    }
}
