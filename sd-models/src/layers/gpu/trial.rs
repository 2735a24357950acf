//! Whether a device computes right what the kernels ask of it, found out by trying.

use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Device, Tensor, TensorData};
use sd_gpu::{Act, Behind, Gemm};

use verdict::is_right;

mod attention;
pub(super) mod convolution;
mod verdict;

#[cfg(all(test, feature = "wgpu"))]
pub(super) use verdict::{Verdict, verdict};

/// Kernels that a device may have or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::layers) enum Kernel {
    GroupNorm,
    LayerNorm,
    Normed,
    Geglu,
    Product,
    Picture,
    Attention,
    /// All of it in one kernel, where it is measured whether that is faster.
    Flash,
    Concat,
    /// In half precision.
    Convolution(Gemm),
}

/// A kernel, and how far off it is at a place.
type Trial = (Kernel, fn(&Place<'_>) -> f64);

const TRIALS: [Trial; 8] = [
    (Kernel::GroupNorm, group_norm),
    (Kernel::LayerNorm, layer_norm),
    (Kernel::Normed, finish_normed),
    (Kernel::Geglu, geglu),
    (Kernel::Product, product),
    (Kernel::Picture, picture),
    (Kernel::Attention, attention::separately),
    (Kernel::Concat, concat),
];

/// A device and a precision, and the kernels that were right there.
static TRIED: Mutex<Vec<(Device, DType, Vec<Kernel>)>> = Mutex::new(Vec::new());

/// True where `kernel` serves tensors like `x`.
pub(in crate::layers) fn has<const D: usize>(kernel: Kernel, x: &Tensor<D>) -> bool {
    has_on(kernel, &x.device(), x.dtype())
}

/// True where `kernel` serves tensors on `device` in precision `dtype`.
pub(super) fn has_on(kernel: Kernel, device: &Device, dtype: DType) -> bool {
    ask(device, dtype, |right| right.contains(&kernel)).unwrap_or(false)
}

/// The ways in which pictures on `device` are convolved in half precision `dtype`.
pub(super) fn gemms(device: &Device, dtype: DType) -> Vec<Gemm> {
    let gemm = |kernel: &Kernel| match kernel {
        Kernel::Convolution(gemm) => Some(*gemm),
        _ => None,
    };
    let gemms = ask(device, dtype, |right| {
        right.iter().filter_map(gemm).collect()
    });
    gemms.unwrap_or_default()
}

/// An answer from the kernels that are right on `device` in precision `dtype`, if any can be.
///
/// The first question about a device and a precision runs every kernel once at a small odd size
/// against f64 on the host. One that does not launch, or is wrong, is left out there for as long as
/// the program runs. With `SD_KERNELS_GPU=none` in the environment all are.
fn ask<T>(device: &Device, dtype: DType, question: impl FnOnce(&[Kernel]) -> T) -> Option<T> {
    if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) || !sd_gpu::runs_on(device) {
        return None;
    }
    let mut tried = TRIED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = |(d, t, _): &&(Device, DType, _)| *t == dtype && d == device;
    if let Some((_, _, kernels)) = tried.iter().find(known) {
        return Some(question(kernels));
    }
    let kernels = match device.supports_dtype(dtype) {
        true => right(&Place { device, dtype }),
        false => Vec::new(),
    };
    let answer = question(&kernels);
    tried.push((device.clone(), dtype, kernels));
    Some(answer)
}

/// Where kernels are tried.
pub(super) struct Place<'a> {
    pub(super) device: &'a Device,
    pub(super) dtype: DType,
}

fn right(place: &Place<'_>) -> Vec<Kernel> {
    if std::env::var("SD_KERNELS_GPU").is_ok_and(|value| value == "none") {
        return Vec::new();
    }
    let mut right = Vec::new();
    for (kernel, trial) in TRIALS {
        if is_right(place, kernel, || Ok(trial(place))) {
            right.push(kernel);
        }
    }
    let flash = cfg!(feature = "autotune");
    if flash && is_right(place, Kernel::Flash, || attention::at_once(place)) {
        right.push(Kernel::Flash);
    }
    for &gemm in Gemm::ALL.iter().filter(|_| place.dtype != DType::F32) {
        let kernel = Kernel::Convolution(gemm);
        if is_right(place, kernel, || convolution::off_of(place, gemm)) {
            right.push(kernel);
        }
    }
    right
}

impl Place<'_> {
    /// Numbers that look random, from `-size` to `size`, as they are when they are stored; the
    /// tensor of them and themselves.
    fn numbers<const D: usize>(
        &self,
        shape: [usize; D],
        size: f64,
        phase: f64,
    ) -> (Tensor<D>, Vec<f64>) {
        // Eight bits times a power of two, which every precision holds.
        let number = |i: usize| (noise(i, phase) * 256.0 - 128.0).round() / 128.0 * size;
        self.tensor(shape, number)
    }

    /// A tensor of what `number` makes of places, and these numbers.
    fn tensor<const D: usize>(
        &self,
        shape: [usize; D],
        number: impl Fn(usize) -> f64,
    ) -> (Tensor<D>, Vec<f64>) {
        let numbers: Vec<f64> = (0..shape.iter().product()).map(number).collect();
        let stored: Vec<f32> = numbers.iter().map(|&x| x as f32).collect();
        let data = TensorData::new(stored, shape);
        (Tensor::from_data(data, (self.device, self.dtype)), numbers)
    }
}

/// A number from 0 to 1 that looks random.
fn noise(i: usize, phase: f64) -> f64 {
    let noise = f64::sin(i as f64 * 12.9898 + phase) * 43758.5453;
    noise - noise.floor()
}

/// The largest difference of the two, beside the largest number of `expected`. Infinite where there
/// are not as many, or one is no number.
fn off<const D: usize>(found: Tensor<D>, expected: &[f64]) -> f64 {
    let Ok(found) = found.try_into_vec_as::<f32>() else {
        return f64::INFINITY;
    };
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let largest = expected.iter().fold(1e-3, |m: f64, x| m.max(x.abs()));
    let pairs = found.iter().zip(expected);
    pairs.fold(0.0, |worst, (&f, e)| match (f64::from(f) - e).abs() {
        off if off.is_nan() => f64::INFINITY,
        off => worst.max(off / largest),
    })
}

/// Of numbers, through a normalisation.
fn normed(x: &[f64], epsilon: f64) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
    x.iter()
        .map(|x| (x - mean) / (variance + epsilon).sqrt())
        .collect()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// With Φ by its power series, which converges for every x.
fn gelu(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for k in 1..200u32 {
        term *= x * x / f64::from(2 * k + 1);
        sum += term;
    }
    x * (0.5 + sum * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt())
}

/// Channels-last in memory, in groups of two channels of more pixels than a cube has units.
fn group_norm(place: &Place<'_>) -> f64 {
    let [n, c, h, w] = [2, 6, 37, 11];
    let (x, numbers) = place.numbers([n, h, w, c], 4.0, 0.1);
    let ((weight, weights), (bias, biases)) =
        (place.numbers([c], 1.0, 0.2), place.numbers([c], 1.0, 0.3));
    let norm = sd_gpu::GroupNorm {
        weight,
        bias,
        groups: 3,
        epsilon: 1e-5,
    };
    let found = sd_gpu::group_norm(x.permute([0, 3, 1, 2]), norm, Act::Silu);
    let mut expected = Vec::new();
    for sample in numbers.chunks(h * w * c) {
        for group in 0..3 {
            let channels = [2 * group, 2 * group + 1];
            let of = |c0: usize| sample.iter().skip(c0).step_by(c).copied();
            let all: Vec<f64> = channels.iter().flat_map(|&c0| of(c0)).collect();
            for (y, c0) in normed(&all, 1e-5).chunks(h * w).zip(channels) {
                expected.extend(y.iter().map(|y| silu(y * weights[c0] + biases[c0])));
            }
        }
    }
    off(found, &expected)
}

fn layer_norm(place: &Place<'_>) -> f64 {
    let width = 301;
    let (x, numbers) = place.numbers([3, 7, width], 4.0, 0.1);
    let ((weight, weights), (bias, biases)) = (
        place.numbers([width], 1.0, 0.2),
        place.numbers([width], 1.0, 0.3),
    );
    let norm = sd_gpu::LayerNorm {
        weight,
        bias,
        epsilon: 1e-5,
    };
    let found = sd_gpu::layer_norm(x, norm);
    let row = |x: &[f64]| {
        let scaled = normed(x, 1e-5).into_iter().zip(&weights).zip(&biases);
        scaled.map(|((x, w), b)| x * w + b).collect::<Vec<_>>()
    };
    let expected: Vec<f64> = numbers.chunks(width).flat_map(row).collect();
    off(found, &expected)
}

/// A product's sum with bias and residual, and that normalised.
fn finish_normed(place: &Place<'_>) -> f64 {
    let width = 301;
    let (product, products) = place.numbers([3, 7, width], 4.0, 0.1);
    let (residual, residuals) = place.numbers([3, 7, width], 4.0, 0.2);
    let ((bias, biases), (weight, weights)) = (
        place.numbers([width], 1.0, 0.3),
        place.numbers([width], 1.0, 0.4),
    );
    let norm = sd_gpu::LayerNorm {
        weight: weight.clone(),
        bias: weight,
        epsilon: 1e-5,
    };
    let [sum, found] =
        sd_gpu::finish_normed(product, Some(bias), Some(residual), norm, place.dtype);
    let added = |(i, (p, r)): (usize, (&f64, &f64))| p + r + biases[i % width];
    let sums: Vec<f64> = products
        .iter()
        .zip(&residuals)
        .enumerate()
        .map(added)
        .collect();
    let row = |x: &[f64]| {
        let scaled = normed(x, 1e-5).into_iter().zip(&weights);
        scaled.map(|(x, w)| x * w + w).collect::<Vec<_>>()
    };
    let expected: Vec<f64> = sums.chunks(width).flat_map(row).collect();
    off(sum, &sums).max(off(found, &expected))
}

fn geglu(place: &Place<'_>) -> f64 {
    let width = 37;
    let (x, numbers) = place.numbers([2, 5, 2 * width], 4.0, 0.1);
    let (bias, biases) = place.numbers([2 * width], 1.0, 0.2);
    let found = sd_gpu::geglu(x, Some(bias));
    let row = |x: &[f64]| {
        let of = |i: usize| x[i] + biases[i];
        (0..width)
            .map(|i| of(i) * gelu(of(i + width)))
            .collect::<Vec<_>>()
    };
    let expected: Vec<f64> = numbers.chunks(2 * width).flat_map(row).collect();
    off(found, &expected)
}

/// Sums whose beginnings are larger than f16 holds, and what comes behind a product of tokens.
fn product(place: &Place<'_>) -> f64 {
    let [rows, inputs, outputs] = [13, 37, 19];
    let (x, numbers) = place.numbers([rows, inputs], 256.0, 0.1);
    let (weight, weights) = place.numbers([outputs, inputs], 256.0, 0.2);
    let wide = sd_gpu::product(x, weight, true, DType::F32);
    let mut expected = Vec::new();
    for x in numbers.chunks(inputs) {
        for w in weights.chunks(inputs) {
            expected.push(x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>());
        }
    }
    let summed = off(wide, &expected);
    let (y, numbers) = place.numbers([1, rows, outputs], 4.0, 0.3);
    let (bias, biases) = place.numbers([outputs], 1.0, 0.4);
    let behind = Behind {
        bias: Some(bias),
        shift: None,
        act: Act::QuickGelu,
        residual: None,
        rectified: true,
    };
    let found = sd_gpu::finish(y, behind, place.dtype);
    let of = |(i, x): (usize, &f64)| {
        let y = x + biases[i % outputs];
        (y / (1.0 + (-1.702 * y).exp())).max(0.0)
    };
    let expected: Vec<f64> = numbers.iter().enumerate().map(of).collect();
    summed.max(off(found, &expected))
}

/// What comes behind a product of a picture in f32, whose residual is of another layout.
fn picture(place: &Place<'_>) -> f64 {
    let [n, c, h, w] = [2, 5, 3, 7];
    let wide = Place {
        dtype: DType::F32,
        ..*place
    };
    let (x, numbers) = wide.numbers([n, c, h, w], 4.0, 0.1);
    let (shift, shifts) = place.numbers([n, c, 1, 1], 1.0, 0.2);
    let (residual, residuals) = place.numbers([n, c, h, w], 1.0, 0.3);
    let behind = Behind {
        bias: None,
        shift: Some(shift),
        act: Act::Gelu,
        residual: Some(residual),
        rectified: false,
    };
    let found = sd_gpu::finish_picture(x, behind, place.dtype);
    let of = |(i, x): (usize, &f64)| gelu(x + shifts[i / (h * w)]) + residuals[i];
    let expected: Vec<f64> = numbers.iter().enumerate().map(of).collect();
    off(found, &expected)
}

fn concat(place: &Place<'_>) -> f64 {
    let [n, h, w] = [2, 3, 7];
    let (a, first) = place.numbers([n, 5, h, w], 1.0, 0.1);
    let (b, second) = place.numbers([n, 3, h, w], 1.0, 0.2);
    let found = sd_gpu::concat_channels(a, b);
    let samples = first.chunks(5 * h * w).zip(second.chunks(3 * h * w));
    let expected: Vec<f64> = samples.flat_map(|(a, b)| [a, b].concat()).collect();
    off(found, &expected)
}
