//! Convolutions against the definition in f64.

mod common;

use common::{assert_close, each_isa, silu, values};
use proptest::prelude::*;
use sd_kernels::{Activation, Algorithm, ConvShape, Epilogue, Isa, PackedConv, Picture};

struct Case {
    shape: ConvShape,
    picture: Picture,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    rectified: bool,
}

impl Case {
    fn new(shape: ConvShape, n: usize, height: usize, width: usize) -> Self {
        let picture = Picture { n, height, width };
        let (out_height, out_width) = shape.output(picture).unwrap();
        let depth = shape.inputs * shape.kernel * shape.kernel;
        let scale = 1.0 / (depth as f32).sqrt();
        let mut weight = values(2, shape.outputs * depth);
        weight.iter_mut().for_each(|x| *x *= scale);
        Self {
            shape,
            picture,
            x: values(1, n * height * width * shape.inputs),
            weight,
            bias: values(3, shape.outputs),
            residual: values(4, n * out_height * out_width * shape.outputs),
            rectified: false,
        }
    }

    fn expected(&self) -> Vec<f64> {
        let shape = self.shape;
        let Picture { n, height, width } = self.picture;
        let (out_height, out_width) = shape.output(self.picture).unwrap();
        let scale = if shape.upsample { 2 } else { 1 };
        let mut out = Vec::new();
        for b in 0..n {
            for (oy, ox) in (0..out_height).flat_map(|y| (0..out_width).map(move |x| (y, x))) {
                for o in 0..shape.outputs {
                    let mut sum = f64::from(self.bias[o]);
                    for ky in 0..shape.kernel {
                        for kx in 0..shape.kernel {
                            let y = (oy * shape.stride + ky).wrapping_sub(shape.pad_before);
                            let x = (ox * shape.stride + kx).wrapping_sub(shape.pad_before);
                            if y >= height * scale || x >= width * scale {
                                continue;
                            }
                            let pixel =
                                ((b * height + y / scale) * width + x / scale) * shape.inputs;
                            for i in 0..shape.inputs {
                                let w = ((o * shape.inputs + i) * shape.kernel + ky) * shape.kernel
                                    + kx;
                                sum += f64::from(self.x[pixel + i]) * f64::from(self.weight[w]);
                            }
                        }
                    }
                    let sum = silu(sum) + f64::from(self.residual[out.len()]);
                    let least = if self.rectified { 0.0 } else { f64::MIN };
                    out.push(sum.max(least));
                }
            }
        }
        out
    }

    fn found(&self, isa: Isa, algorithm: Algorithm) -> Vec<f32> {
        let packed = PackedConv::new(isa, &self.weight, self.shape).unwrap();
        let mut out = vec![f32::NAN; self.residual.len()];
        let epilogue = Epilogue {
            bias: Some(&self.bias),
            activation: Activation::Silu,
            residual: Some(&self.residual),
            rectified: self.rectified,
        };
        packed
            .forward_by(algorithm, &self.x, self.picture, epilogue, &mut out)
            .unwrap();
        out
    }

    fn check(&self, algorithms: &[(Algorithm, f64)]) {
        let expected = self.expected();
        each_isa(|isa| {
            for &(algorithm, tolerance) in algorithms {
                let what = format!(
                    "{algorithm:?} on {} of {:?} {:?}",
                    isa.name(),
                    self.shape,
                    self.picture
                );
                assert_close(&what, &self.found(isa, algorithm), &expected, tolerance);
            }
        });
    }
}

const EXACT: f64 = 2e-6;
const ALL: [(Algorithm, f64); 4] = [
    (Algorithm::Direct, EXACT),
    (Algorithm::Winograd2, EXACT),
    (Algorithm::Winograd4, 8e-6),
    (Algorithm::Winograd6, 4e-5),
];

#[test]
fn every_algorithm_at_odd_sizes() {
    for (n, height, width) in [(1, 1, 1), (3, 5, 7), (2, 8, 8), (1, 13, 4), (1, 2, 31)] {
        for (inputs, outputs) in [(16, 32), (48, 5), (32, 67), (80, 3)] {
            Case::new(ConvShape::same(inputs, outputs, 3), n, height, width).check(&ALL);
        }
    }
}

#[test]
fn results_below_zero_become_zero_and_nan_stays() {
    for (inputs, outputs) in [(16, 32), (48, 5)] {
        let mut case = Case::new(ConvShape::same(inputs, outputs, 3), 2, 5, 7);
        case.rectified = true;
        case.check(&ALL);
        case.residual[outputs] = f32::NAN;
        for (algorithm, _) in ALL {
            let out = case.found(Isa::best(), algorithm);
            let nan = |(i, x): (usize, &f32)| x.is_nan() == (i == outputs);
            assert!(out.iter().enumerate().all(nan), "{algorithm:?}");
        }
    }
}

#[test]
fn enlarged_input_is_never_built() {
    for (height, width) in [(1, 1), (3, 5), (8, 6)] {
        let shape = ConvShape::same(32, 40, 3).upsampled();
        Case::new(shape, 2, height, width).check(&ALL);
        let shape = ConvShape::same(5, 7, 3).upsampled();
        Case::new(shape, 1, height, width).check(&ALL[..1]);
    }
}

#[test]
fn stride_two_with_both_paddings() {
    for (pad_before, pad_after) in [(1, 1), (0, 1)] {
        for (inputs, outputs) in [(32, 48), (7, 9)] {
            let shape = ConvShape {
                stride: 2,
                pad_before,
                pad_after,
                ..ConvShape::same(inputs, outputs, 3)
            };
            for (height, width) in [(2, 2), (9, 6), (8, 11)] {
                Case::new(shape, 2, height, width).check(&ALL[..1]);
            }
        }
    }
}

#[test]
fn several_blocks_in_a_pool_of_three() {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(3)
        .build()
        .unwrap();
    let case = Case::new(ConvShape::same(64, 96, 3), 2, 70, 50);
    let expected = case.expected();
    for (algorithm, tolerance) in ALL {
        let found = pool.install(|| case.found(Isa::best(), algorithm));
        assert_close("in the pool", &found, &expected, tolerance);
        let alone = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap();
        let serial = alone.install(|| case.found(Isa::best(), algorithm));
        assert_close("serial", &serial, &expected, tolerance);
    }
}

/// The error relative to the largest output, at the depth of a real layer.
#[test]
fn winograd_stays_accurate_at_full_depth() {
    let case = Case::new(ConvShape::same(640, 16, 3), 1, 8, 8);
    case.check(&[
        (Algorithm::Direct, 2e-6),
        (Algorithm::Winograd2, 2e-6),
        (Algorithm::Winograd4, 8e-6),
        (Algorithm::Winograd6, 4e-5),
    ]);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let isa = Isa::best();
    let same = ConvShape::same(16, 16, 3);
    let weight = vec![0.0; 16 * 16 * 9];
    assert!(PackedConv::new(isa, &weight[1..], same).is_err());
    let standing = ConvShape { stride: 0, ..same };
    assert!(PackedConv::new(isa, &weight, standing).is_err());
    let packed = PackedConv::new(isa, &weight, same).unwrap();
    let picture = Picture {
        n: 1,
        height: 2,
        width: 2,
    };
    let mut out = vec![0.0; 64];
    assert!(
        packed
            .forward(&[0.0; 63], picture, Epilogue::default(), &mut out)
            .is_err()
    );
    assert!(
        packed
            .forward(&[0.0; 64], picture, Epilogue::default(), &mut out[1..])
            .is_err()
    );
    let bias = Epilogue {
        bias: Some(&[0.0; 15]),
        ..Epilogue::default()
    };
    assert!(packed.forward(&[0.0; 64], picture, bias, &mut out).is_err());
    let huge = Picture {
        n: usize::MAX,
        height: 2,
        width: 2,
    };
    assert!(
        packed
            .forward(&[0.0; 64], huge, Epilogue::default(), &mut out)
            .is_err()
    );
}

#[test]
fn winograd_of_another_shape_is_an_error() {
    let isa = Isa::best();
    let same = ConvShape::same(16, 16, 3);
    let strided = ConvShape { stride: 2, ..same };
    for shape in [
        strided,
        ConvShape::same(4, 4, 3),
        ConvShape::same(16, 16, 1),
    ] {
        let weight = vec![0.0; shape.outputs * shape.inputs * shape.kernel * shape.kernel];
        let packed = PackedConv::new(isa, &weight, shape).unwrap();
        let picture = Picture {
            n: 1,
            height: 4,
            width: 4,
        };
        let (height, width) = shape.output(picture).unwrap();
        let x = vec![0.0; 16 * shape.inputs];
        let mut out = vec![0.0; height * width * shape.outputs];
        let mut run =
            |algorithm| packed.forward_by(algorithm, &x, picture, Epilogue::default(), &mut out);
        assert!(run(Algorithm::Direct).is_ok());
        assert!(run(Algorithm::Winograd2).is_err());
        assert!(run(Algorithm::Winograd4).is_err());
        assert!(run(Algorithm::Winograd6).is_err());
    }
}

proptest! {
    #![proptest_config(common::cases(48))]

    #[test]
    fn direct_of_any_shape(
        (inputs, outputs, kernel) in (1usize..40, 1usize..70, 1usize..4),
        (stride, pad_before, pad_after) in (1usize..3, 0usize..2, 0usize..2),
        (n, height, width) in (1usize..4, 3usize..9, 3usize..9),
    ) {
        let shape = ConvShape { inputs, outputs, kernel, stride, pad_before, pad_after, upsample: false };
        Case::new(shape, n, height, width).check(&ALL[..1]);
    }

    #[test]
    fn winograd_of_any_size(
        lines in 1usize..6, outputs in 1usize..100,
        (n, height, width) in (1usize..4, 1usize..14, 1usize..14),
    ) {
        Case::new(ConvShape::same(16 * lines, outputs, 3), n, height, width).check(&ALL);
    }
}
