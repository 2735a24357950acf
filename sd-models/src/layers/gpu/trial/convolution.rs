//! Convolutions in half precision whose sums f16 could not hold on their way.

use burn::tensor::Tensor;
use sd_gpu::{Gemm, Unavailable};

use super::{Place, noise, off};
use crate::layers::gpu::channels_last;

/// A convolution of a picture of an odd size.
#[derive(Debug)]
pub(in crate::layers::gpu) struct Case {
    /// In and out.
    channels: [usize; 2],
    kernel: usize,
    pub(in crate::layers::gpu) stride: usize,
}

/// Two as wide as Stable Diffusion's, one as narrow as its latents and colours, and one that makes more
/// channels than there are pixels.
pub(in crate::layers::gpu) const CASES: [Case; 4] = [
    Case::new([320, 24], 3, 1),
    Case::new([640, 16], 3, 2),
    Case::new([4, 3], 3, 1),
    Case::new([64, 520], 1, 1),
];

/// How far `gemm` is off.
///
/// A shape that it refuses goes another way whenever it occurs, but for the first of all.
pub(in crate::layers::gpu) fn off_of(place: &Place<'_>, gemm: Gemm) -> Result<f64, Unavailable> {
    let mut worst = 0f64;
    for (i, case) in CASES.iter().enumerate() {
        let by = |x, weight| sd_gpu::convolution_by(gemm, x, weight, case.stride, case.padding());
        match case.off_by(place, by) {
            Ok(off) => worst = worst.max(off),
            Err(lack) if i == 0 => return Err(lack),
            Err(_) => {}
        }
    }
    Ok(worst)
}

impl Case {
    const fn new(channels: [usize; 2], kernel: usize, stride: usize) -> Self {
        Self {
            channels,
            kernel,
            stride,
        }
    }

    pub(in crate::layers::gpu) fn padding(&self) -> [usize; 2] {
        [self.kernel / 2; 2]
    }

    /// How far what `convolve` makes of a picture and a weight is off.
    ///
    /// At each place of the kernel the first half of the channels adds 16² to 32² each, which of 160 is
    /// above f16's largest number, and the other half takes as much away.
    pub(in crate::layers::gpu) fn off_by<E>(
        &self,
        place: &Place<'_>,
        convolve: impl FnOnce(Tensor<4>, Tensor<4>) -> Result<Tensor<4>, E>,
    ) -> Result<f64, E> {
        let ([n, h, w], [inputs, outputs], k) = ([2, 9, 7], self.channels, self.kernel);
        // Whole numbers of six bits, which every precision holds.
        let number = |i, phase| 16.0 + (noise(i, phase) * 17.0).floor();
        let (x, xs) = place.tensor([n, h, w, inputs], |i| number(i, 0.1));
        let signed = |i: usize| match i / (k * k) % inputs < inputs / 2 {
            true => number(i, 0.2),
            false => -number(i, 0.2),
        };
        let (weight, weights) = place.tensor([outputs, inputs, k, k], signed);
        let found = convolve(x.permute([0, 3, 1, 2]), channels_last(weight))?;

        let at = |sample: usize, channel: usize, [row, column]: [usize; 2]| {
            let mut sum = 0.0;
            for (i, j) in (0..k * k).map(|at| (at / k, at % k)) {
                // Of a picture with zeros around it.
                let [y, x] = [row * self.stride + i, column * self.stride + j];
                let inside = |at: usize, size| (k / 2..size + k / 2).contains(&at);
                if !inside(y, h) || !inside(x, w) {
                    continue;
                }
                let pixel = (sample * h + y - k / 2) * w + x - k / 2;
                let pixel = &xs[pixel * inputs..][..inputs];
                let weight = weights[channel * inputs * k * k..].iter();
                let weight = weight.skip(i * k + j).step_by(k * k);
                sum += pixel.iter().zip(weight).map(|(x, w)| x * w).sum::<f64>();
            }
            sum
        };
        let [rows, columns] = [h, w].map(|size| (size - 1) / self.stride + 1);
        let mut expected = Vec::with_capacity(n * outputs * rows * columns);
        for (sample, channel) in (0..n * outputs).map(|i| (i / outputs, i % outputs)) {
            let places = (0..rows * columns).map(|i| [i / columns, i % columns]);
            expected.extend(places.map(|place| at(sample, channel, place)));
        }
        Ok(off(found, &expected))
    }
}
