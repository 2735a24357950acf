//! Statistics of each sample, `[n, 1, 1, 1]`.

use burn::tensor::Tensor;

/// Products of the values of two pictures, summed.
pub(super) fn dot(a: &Tensor<4>, b: &Tensor<4>) -> Tensor<4> {
    sum(a.clone() * b.clone())
}

/// Square root of the sum of squares.
pub(super) fn norm(x: &Tensor<4>) -> Tensor<4> {
    dot(x, x).sqrt()
}

/// Standard deviation, of which the variance is that of a sample (n − 1), as torch has it.
pub(super) fn deviation(x: &Tensor<4>) -> Tensor<4> {
    let count = (x.dims()[1..].iter().product::<usize>()) as f64;
    let centred = x.clone() - sum(x.clone()) / count;
    (dot(&centred, &centred) / (count - 1.0).max(1.0)).sqrt()
}

fn sum(x: Tensor<4>) -> Tensor<4> {
    let [n, ..] = x.dims();
    let samples: Tensor<2> = x.reshape([n as i32, -1]);
    samples.sum_dim(1).reshape([n, 1, 1, 1])
}

/// The divisor `x`, or a number so small that nothing is divided by nothing.
pub(super) fn divisor(x: Tensor<4>) -> Tensor<4> {
    x.clamp_min(f64::from(f32::MIN_POSITIVE))
}
