//! Weights in half precision against the same numbers in f32: every half is an f32, so the results
//! must be the same bit for bit.

mod common;

use common::{each_isa, values};
use half::{bf16, f16};
use proptest::prelude::*;
use sd_kernels::{
    Activation, Algorithm, ConvShape, DType, Epilogue, Held, Isa, PackedConv, PackedGeglu,
    PackedMatrix, Picture, WeightRows, WeightStorage, geglu, linear,
};

/// A weight in both halves, with subnormals and the largest numbers among its values.
struct Weight {
    f16: Vec<f16>,
    bf16: Vec<bf16>,
}

impl Weight {
    fn new(seed: u64, len: usize) -> Self {
        let mut values = values(seed, len);
        for (x, scale) in values
            .iter_mut()
            .zip([1.0, 3e-7, 1.0, 6e-5, 1.0].iter().cycle())
        {
            *x *= scale;
        }
        for (x, special) in values.iter_mut().zip([0.0, -0.0, 65504.0, -65504.0, 6e-8]) {
            *x = special;
        }
        Self {
            f16: values.iter().map(|&x| f16::from_f32(x)).collect(),
            bf16: values.iter().map(|&x| bf16::from_f32(x)).collect(),
        }
    }
}

/// Runs `compute` on the weight as it is and widened beforehand.
fn check<W: WeightRows + ?Sized>(
    weight: &W,
    wide: &[f32],
    compute: impl Fn(&dyn Packing) -> Vec<f32>,
) where
    sd_kernels::Error: From<W::Error>,
{
    let expected = compute(&Source(wide, WeightStorage::F32));
    for memory in [WeightStorage::F32, WeightStorage::AsStored] {
        let found = compute(&Source(weight, memory));
        assert!(bits(&found).eq(bits(&expected)), "{memory:?}");
    }
}

fn bits(x: &[f32]) -> impl Iterator<Item = u32> + '_ {
    x.iter().map(|x| x.to_bits())
}

/// The ways to pack a weight, whatever holds it.
trait Packing {
    fn matrix(&self, isa: Isa, columns: usize, depth: usize) -> PackedMatrix;
    fn geglu(&self, isa: Isa, columns: usize, depth: usize) -> PackedGeglu;
    fn conv(&self, isa: Isa, shape: ConvShape) -> PackedConv;
}

struct Source<'a, W: ?Sized>(&'a W, WeightStorage);

impl<W: WeightRows + ?Sized> Packing for Source<'_, W>
where
    sd_kernels::Error: From<W::Error>,
{
    fn matrix(&self, isa: Isa, columns: usize, depth: usize) -> PackedMatrix {
        let packed = PackedMatrix::read(isa, self.0, columns, depth, self.1);
        let packed = packed.map_err(sd_kernels::Error::from).unwrap();
        let held = match self.1 {
            WeightStorage::F32 => DType::F32,
            _ => self.0.dtype(),
        };
        assert_eq!(packed.held(), Held::Numbers(held));
        packed
    }

    fn geglu(&self, isa: Isa, columns: usize, depth: usize) -> PackedGeglu {
        let packed = PackedGeglu::read(isa, self.0, columns, depth, self.1);
        packed.map_err(sd_kernels::Error::from).unwrap()
    }

    fn conv(&self, isa: Isa, shape: ConvShape) -> PackedConv {
        let packed = PackedConv::read(isa, self.0, shape, self.1);
        packed.map_err(sd_kernels::Error::from).unwrap()
    }
}

fn check_both(weight: &Weight, compute: impl Fn(&dyn Packing) -> Vec<f32>) {
    let wide: Vec<f32> = weight.f16.iter().map(|x| x.to_f32()).collect();
    check(&weight.f16[..], &wide, &compute);
    let wide: Vec<f32> = weight.bf16.iter().map(|x| x.to_f32()).collect();
    check(&weight.bf16[..], &wide, &compute);
}

fn check_linear(rows: usize, inputs: usize, outputs: usize) {
    let weight = Weight::new(2, outputs * inputs);
    let (x, bias) = (values(1, rows * inputs), values(3, outputs));
    each_isa(|isa| {
        check_both(&weight, |packing| {
            let packed = packing.matrix(isa, outputs, inputs);
            let mut out = vec![f32::NAN; rows * outputs];
            let epilogue = Epilogue {
                bias: Some(&bias),
                activation: Activation::Silu,
                ..Epilogue::default()
            };
            linear(&x, rows, &packed, epilogue, &mut out).unwrap();
            out
        });
    });
}

fn check_geglu(rows: usize, inputs: usize, columns: usize) {
    let weight = Weight::new(2, 2 * columns * inputs);
    let (x, bias) = (values(1, rows * inputs), values(3, 2 * columns));
    each_isa(|isa| {
        check_both(&weight, |packing| {
            let packed = packing.geglu(isa, columns, inputs);
            let mut out = vec![f32::NAN; rows * columns];
            geglu(&x, rows, &packed, Some(&bias), None, &mut out).unwrap();
            out
        });
    });
}

fn check_conv(shape: ConvShape, picture: Picture, algorithms: &[Algorithm]) {
    let weight = Weight::new(
        2,
        shape.outputs * shape.inputs * shape.kernel * shape.kernel,
    );
    let Picture { n, height, width } = picture;
    let x = values(1, n * height * width * shape.inputs);
    let (out_height, out_width) = shape.output(picture).unwrap();
    each_isa(|isa| {
        for &algorithm in algorithms {
            check_both(&weight, |packing| {
                let packed = packing.conv(isa, shape);
                let mut out = vec![f32::NAN; n * out_height * out_width * shape.outputs];
                let plain = Epilogue::default();
                (packed.forward_by(algorithm, &x, picture, plain, &mut out)).unwrap();
                out
            });
        }
    });
}

const ALL: [Algorithm; 4] = [
    Algorithm::Direct,
    Algorithm::Winograd2,
    Algorithm::Winograd4,
    Algorithm::Winograd6,
];

#[test]
fn convolutions_by_every_algorithm() {
    for (n, height, width) in [(1, 1, 1), (3, 5, 7), (2, 24, 31)] {
        for (inputs, outputs) in [(16, 32), (80, 67), (320, 5)] {
            let picture = Picture { n, height, width };
            check_conv(ConvShape::same(inputs, outputs, 3), picture, &ALL);
        }
    }
    let strided = ConvShape {
        stride: 2,
        pad_before: 0,
        ..ConvShape::same(7, 9, 3)
    };
    let picture = Picture {
        n: 2,
        height: 8,
        width: 11,
    };
    check_conv(strided, picture, &ALL[..1]);
    check_conv(ConvShape::same(33, 40, 1), picture, &ALL[..1]);
}

#[test]
fn layers_of_the_networks() {
    for (rows, inputs, outputs) in [(1, 1, 1), (2, 320, 1280), (77, 768, 320), (700, 1300, 33)] {
        check_linear(rows, inputs, outputs);
    }
    for (rows, inputs, columns) in [(1, 1, 1), (65, 320, 128), (3, 1300, 5)] {
        check_geglu(rows, inputs, columns);
    }
}

#[test]
fn half_the_numbers_take_half_the_memory() {
    let weight = Weight::new(2, 64 * 48);
    let isa = Isa::best();
    let bytes = |memory| {
        let packed = PackedMatrix::read(isa, &weight.f16[..], 64, 48, memory).unwrap();
        packed.bytes()
    };
    assert_eq!(bytes(WeightStorage::F32), 64 * 48 * 4);
    assert_eq!(bytes(WeightStorage::AsStored), 64 * 48 * 2);
    let f32 = PackedMatrix::read(
        isa,
        &values(2, 64 * 48)[..],
        64,
        48,
        WeightStorage::AsStored,
    )
    .unwrap();
    assert_eq!(f32.held(), Held::Numbers(DType::F32));
}

/// Reading that fails gives its own error, from whichever thread.
#[test]
fn a_weight_that_cannot_be_read_is_an_error() {
    struct Broken;

    impl WeightRows for Broken {
        type Error = sd_kernels::Error;

        fn dtype(&self) -> DType {
            DType::F16
        }

        fn read(&self, rows: std::ops::Range<usize>, to: &mut [u8]) -> sd_kernels::Result<()> {
            assert_eq!(to.len(), rows.len() * 7 * 2);
            if rows.contains(&100) {
                return Err(sd_kernels::Error::OutOfMemory { bytes: 100 });
            }
            to.fill(0);
            Ok(())
        }
    }

    each_isa(|isa| {
        assert!(PackedMatrix::read(isa, &Broken, 90, 7, WeightStorage::AsStored).is_ok());
        let error = PackedMatrix::read(isa, &Broken, 150, 7, WeightStorage::AsStored).unwrap_err();
        assert_eq!(error, sd_kernels::Error::OutOfMemory { bytes: 100 });
        assert!(PackedGeglu::read(isa, &Broken, 90, 7, WeightStorage::F32).is_err());
        let endless = PackedMatrix::read(isa, &Broken, 90, usize::MAX / 64, WeightStorage::F32);
        assert!(endless.is_err());
    });
}

proptest! {
    #![proptest_config(common::cases(48))]

    #[test]
    fn linear_of_any_size(rows in 1usize..60, inputs in 1usize..90, outputs in 1usize..90) {
        check_linear(rows, inputs, outputs);
    }

    #[test]
    fn convolution_of_any_size(
        lines in 1usize..4, outputs in 1usize..70,
        (n, height, width) in (1usize..3, 1usize..14, 1usize..14),
    ) {
        let picture = Picture { n, height, width };
        check_conv(ConvShape::same(16 * lines, outputs, 3), picture, &ALL);
    }

    #[test]
    fn geglu_of_any_size(rows in 1usize..60, inputs in 1usize..60, columns in 1usize..60) {
        check_geglu(rows, inputs, columns);
    }
}
