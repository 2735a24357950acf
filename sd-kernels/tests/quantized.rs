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
    /// What the blocks stand for, as ggml's `dequantize_row_…` make it
    /// (`sd-models/tests/weights_formats.rs`).
    numbers: Vec<f32>,
}

/// Places of the f16 in a block.
fn halves(blocks: Blocks) -> &'static [usize] {
    match blocks {
        Blocks::Q4_0 | Blocks::Q5_0 | Blocks::Q8_0 => &[0],
        Blocks::Q4_1 | Blocks::Q5_1 | Blocks::Q4K | Blocks::Q5K => &[0, 2],
        Blocks::Q2K => &[80, 82],
        Blocks::Q3K => &[108],
        Blocks::Q6K => &[208],
    }
}

impl File {
    fn new(blocks: Blocks, rows: usize, depth: usize) -> Self {
        let count = (rows * depth).div_ceil(blocks.elements());
        let random = values(5, count * blocks.bytes());
        let mut bytes: Vec<u8> = (random.iter().map(|x| (x * 128.0).floor() as i8 as u8)).collect();
        let random = values(6, 2 * count);
        for (block, x) in bytes
            .chunks_exact_mut(blocks.bytes())
            .zip(random.as_chunks::<2>().0)
        {
            // Scales of either sign, and such as are not normal.
            for (at, x) in halves(blocks).iter().zip(x) {
                let half = f16::from_f32(x * x * x * 0.01).to_le_bytes();
                block[*at..at + 2].copy_from_slice(&half);
            }
        }
        let mut numbers = vec![f32::NAN; count * blocks.elements()];
        blocks.decode(&bytes, &mut numbers).unwrap();
        numbers.truncate(rows * depth);
        Self {
            blocks,
            depth,
            bytes,
            numbers,
        }
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

    fn read_blocks(&self, first: usize, to: &mut [u8]) -> sd_kernels::Result<()> {
        let first = first * self.blocks.bytes();
        to.copy_from_slice(&self.bytes[first..first + to.len()]);
        Ok(())
    }

    fn read(&self, rows: Range<usize>, to: &mut [u8]) -> sd_kernels::Result<()> {
        let numbers = &self.numbers[rows.start * self.depth..rows.end * self.depth];
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

/// The blocks that a weight is held in and how many terms of a row share a scale.
fn held(held: Held) -> Option<(Blocks, usize)> {
    match held {
        Held::Blocks(kept) => Some((kept.blocks(), kept.span())),
        _ => None,
    }
}

/// Of rows of `depth`: as many terms as a block has, or as lie in one block wherever the row begins.
fn kept_as(blocks: Blocks, depth: usize) -> Option<(Blocks, usize)> {
    let mut span = blocks.elements();
    while !depth.is_multiple_of(span) {
        span /= 2;
    }
    Some((blocks, span))
}

fn product<W: WeightRows<Error = sd_kernels::Error> + ?Sized>(
    isa: Isa,
    weight: &W,
    packing: Packing,
    [rows, outputs, inputs]: [usize; 3],
) -> (Held, Vec<f32>) {
    let packed = PackedMatrix::read(isa, weight, outputs, inputs, packing).unwrap();
    let foretold = PackedMatrix::bytes_of(isa, weight, outputs, inputs, packing).unwrap();
    assert_eq!(packed.bytes(), foretold);
    let x = values(1, rows * inputs);
    let mut out = vec![f32::NAN; rows * outputs];
    linear(&x, rows, &packed, Epilogue::default(), &mut out).unwrap();
    (packed.held(), out)
}

/// By products of f32 and of bf16, which round what the blocks stand for.
fn check_linear(blocks: Blocks, rows: usize, inputs: usize, outputs: usize) {
    let file = File::new(blocks, outputs, inputs);
    let all = Products::all().into_iter().chain([Products::F32]);
    for products in all {
        each_isa(|isa| {
            let storage = WeightStorage::F32;
            let sizes = [rows, outputs, inputs];
            let plain = Packing { storage, products };
            let (_, expected) = product(isa, &file.numbers[..], plain, sizes);
            for storage in [WeightStorage::AsStored, WeightStorage::Q8] {
                let (found, out) = product(isa, &file, Packing { storage, products }, sizes);
                assert_eq!(held(found), kept_as(blocks, inputs));
                assert_same(&out, &expected);
            }
            let (found, out) = product(isa, &file, plain, sizes);
            assert!(found == Held::Numbers(DType::F32) || found == Held::Pairs);
            assert_same(&out, &expected);
        });
    }
}

/// Rows of whole blocks, and such as begin in each quarter and each eighth of one.
#[test]
fn linear_layers_of_a_files_blocks() {
    for blocks in Blocks::ALL {
        for (rows, inputs, outputs) in [(1, 32, 1), (37, 320, 65), (5, 1312, 33), (3, 768, 40)] {
            check_linear(blocks, rows, inputs, outputs);
        }
    }
}

#[test]
fn gated_layers_of_a_files_blocks() {
    let (rows, inputs, columns) = (19, 96, 21);
    let x = values(1, rows * inputs);
    for blocks in Blocks::ALL {
        let file = File::new(blocks, 2 * columns, inputs);
        each_isa(|isa| {
            let run = |weight: PackedGeglu| {
                let mut out = vec![f32::NAN; rows * columns];
                geglu(&x, rows, &weight, None, None, &mut out).unwrap();
                out
            };
            let stored = WeightStorage::AsStored;
            let found = run(PackedGeglu::read(isa, &file, columns, inputs, stored).unwrap());
            let expected = run(PackedGeglu::new(isa, &file.numbers, columns, inputs).unwrap());
            assert_same(&found, &expected);
        });
    }
}

/// In the order of the file, in which an input's taps lie side by side: by Winograd's algorithms and
/// the direct sum, whose stride of 2 has no other.
#[test]
fn convolutions_of_a_files_blocks() {
    let picture = Picture {
        n: 2,
        height: 5,
        width: 3,
    };
    let all = [
        Algorithm::Direct,
        Algorithm::Winograd2,
        Algorithm::Winograd4,
        Algorithm::Winograd6,
    ];
    for (inputs, kernel) in [(64, 1), (64, 3), (96, 3), (32, 5)] {
        let x = values(1, 2 * 15 * inputs);
        let shape = ConvShape::same(inputs, 35, kernel);
        let depth = kernel * kernel * inputs;
        for blocks in Blocks::ALL {
            let file = File::new(blocks, shape.outputs, depth);
            each_isa(|isa| {
                let stored = WeightStorage::AsStored;
                let kept = PackedConv::read(isa, &file, shape, stored).unwrap();
                let bytes = PackedConv::bytes_of(isa, &file, shape, stored).unwrap();
                assert_eq!(kept.bytes(), bytes);
                assert_eq!(held(kept.held()), kept_as(blocks, depth));
                let plain = PackedConv::new(isa, &file.numbers, shape).unwrap();
                for algorithm in all.iter().take(if kernel == 3 { 4 } else { 1 }) {
                    let run = |packed: &PackedConv| {
                        let mut out = vec![f32::NAN; 2 * 15 * shape.outputs];
                        let end = Epilogue::default();
                        let done = packed.forward_by(*algorithm, &x, picture, end, &mut out);
                        done.unwrap();
                        out
                    };
                    assert_same(&run(&kept), &run(&plain));
                }
            });
        }
    }
}

/// As pairs of bf16, where those are multiplied.
#[test]
fn convolutions_of_a_files_blocks_in_bf16() {
    let picture = Picture {
        n: 1,
        height: 6,
        width: 4,
    };
    let strided = ConvShape {
        stride: 2,
        ..ConvShape::same(64, 35, 3)
    };
    let few = ConvShape::same(64, 35, 3);
    // More lines than are multiplied at once.
    let many = ConvShape::same(160, 35, 3);
    for shape in [strided, few, many] {
        convolution_of_blocks_in_bf16(picture, shape);
    }
}

fn convolution_of_blocks_in_bf16(picture: Picture, shape: ConvShape) {
    let x = values(1, 24 * shape.inputs);
    let all = Products::all();
    for (blocks, products) in Blocks::ALL
        .iter()
        .flat_map(|b| all.iter().map(move |p| (*b, *p)))
    {
        let file = File::new(blocks, shape.outputs, 9 * shape.inputs);
        each_isa(|isa| {
            let run = |weight: &dyn Fn(Packing) -> PackedConv, storage| {
                let packed = weight(Packing { storage, products });
                let pixels = 24 / (shape.stride * shape.stride);
                let mut out = vec![f32::NAN; pixels * shape.outputs];
                packed
                    .forward(&x, picture, Epilogue::default(), &mut out)
                    .unwrap();
                // Winograd's in f32 is another sum of other roundings.
                let winograd = packed.products().is_f32();
                assert!(!winograd || shape.stride == 1);
                if winograd { Vec::new() } else { out }
            };
            let kept = |packing| PackedConv::read(isa, &file, shape, packing).unwrap();
            let plain = |packing| PackedConv::read(isa, &file.numbers[..], shape, packing).unwrap();
            let found = run(&kept, WeightStorage::AsStored);
            assert_same(&found, &run(&plain, WeightStorage::F32));
        });
    }
}

/// A file's blocks of more bits than are asked for are rounded, those of fewer stay.
#[test]
fn blocks_of_more_bits_than_asked_for_are_rounded() {
    for blocks in Blocks::ALL {
        let file = File::new(blocks, 32, 256);
        let kept = match blocks {
            Blocks::Q4_0 | Blocks::Q2K | Blocks::Q3K | Blocks::Q4K => blocks,
            _ => Blocks::Q4_0,
        };
        let packed = PackedMatrix::read(Isa::best(), &file, 32, 256, WeightStorage::Q4).unwrap();
        assert_eq!(held(packed.held()), kept_as(kept, 256), "{blocks:?}");
    }
}

#[test]
fn bytes_that_are_no_blocks_are_refused() {
    for blocks in Blocks::ALL {
        let (bytes, elements) = (vec![0; 2 * blocks.bytes()], 2 * blocks.elements());
        let mut numbers = vec![1.0; elements];
        blocks.decode(&bytes, &mut numbers).unwrap();
        assert!(numbers.iter().all(|x| *x == 0.0));
        assert!(blocks.decode(&bytes[1..], &mut numbers).is_err());
        assert!(blocks.decode(&bytes, &mut numbers[1..]).is_err());
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
                PackedConv::bytes_of(isa, &weight[..], shape, storage).unwrap()
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
        (held(packed.held()), packed.bytes())
    };
    let (eight, four) = (kept_as(Blocks::Q8_0, 96), kept_as(Blocks::Q4_0, 96));
    assert_eq!(bytes(96, WeightStorage::Q8), (eight, 64 * 96 * 34 / 32));
    assert_eq!(bytes(96, WeightStorage::Q4), (four, 64 * 96 * 18 / 32));
    assert_eq!(bytes(48, WeightStorage::Q8), (None, 4 * 64 * 96));
}

/// What the file has for 256 numbers, four bytes more where scales have six bits, and for rows that
/// begin in the middle of a block as many scales as they need.
#[test]
fn a_files_blocks_take_what_they_take_there() {
    for (blocks, whole, quarters) in [
        (Blocks::Q4_0, 144, 144),
        (Blocks::Q4_1, 160, 160),
        (Blocks::Q5_0, 176, 176),
        (Blocks::Q5_1, 192, 192),
        (Blocks::Q8_0, 272, 272),
        (Blocks::Q2K, 84, 96),
        (Blocks::Q3K, 114, 120),
        (Blocks::Q4K, 148, 160),
        (Blocks::Q5K, 180, 192),
        (Blocks::Q6K, 210, 216),
    ] {
        for (inputs, size) in [(1280, whole), (320, quarters)] {
            let file = File::new(blocks, 64, inputs);
            let stored = WeightStorage::AsStored;
            let packed = PackedMatrix::read(Isa::best(), &file, 64, inputs, stored).unwrap();
            assert_eq!(packed.bytes(), 64 * inputs * size / 256, "{blocks:?}");
        }
    }
}

proptest! {
    #![proptest_config(common::cases(24))]

    #[test]
    fn linear_of_any_size(
        kind in 0..Blocks::ALL.len(),
        rows in 1usize..40,
        parts in 1usize..20,
        outputs in 1usize..70,
    ) {
        check_linear(Blocks::ALL[kind], rows, 32 * parts, outputs);
    }
}
