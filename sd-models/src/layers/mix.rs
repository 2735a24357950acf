//! Linear maps of a picture's rows and columns: blurs, filters of few frequencies.

use burn::tensor::{Device, Tensor, TensorData};

use super::plain::{from_f32, to_f32};

/// A map of one side of a picture, `[side, side]`: what each place gets of each place.
pub(crate) struct SideMap {
    values: Vec<f32>,
    side: usize,
}

impl SideMap {
    /// The map whose values are `value(to, from)`.
    pub(crate) fn new(side: usize, value: impl Fn(usize, usize) -> f64) -> Self {
        let places = (0..side).flat_map(|to| (0..side).map(move |from| (to, from)));
        Self {
            values: places.map(|(to, from)| value(to, from) as f32).collect(),
            side,
        }
    }

    /// A blur by a Gaussian of deviation `sigma`, whose kernel is `⌈6·sigma⌉` places wide, at most
    /// the side, and is reflected at the ends.
    pub(crate) fn gaussian(side: usize, sigma: f64) -> Self {
        // Odd, so that a kernel has a middle.
        let odd = |size: f64| size + 1.0 - size % 2.0;
        let half = (odd((6.0 * sigma).ceil()).min(odd(side as f64)) / 2.0) as isize;
        let weight = |d: isize| (-0.5 * (d as f64 / sigma).powi(2)).exp();
        let sum: f64 = (-half..=half).map(weight).sum();
        let last = side as isize - 1;
        let mut values = vec![0.0_f64; side * side];
        for to in 0..side as isize {
            for d in -half..=half {
                let from = (to + d).abs();
                let from = if from > last { 2 * last - from } else { from };
                values[(to * side as isize + from.max(0)) as usize] += weight(d) / sum;
            }
        }
        Self::new(side, |to, from| values[to * side + from])
    }

    /// The mean of all places.
    pub(crate) fn mean(side: usize) -> Self {
        Self::new(side, |_, _| 1.0 / side as f64)
    }

    fn tensor(&self, device: &Device) -> Tensor<3> {
        let data = TensorData::new(self.values.clone(), [1, self.side, self.side]);
        Tensor::from_data(data, (device, burn::tensor::DType::F32))
    }
}

/// The tokens `[n, h·w, c]` of a picture through a map of its rows and one of its columns. In f32
/// whatever their precision.
pub(crate) fn mix(tokens: Tensor<3>, rows: &SideMap, columns: &SideMap) -> Tensor<3> {
    let ([n, _, c], dtype, device) = (tokens.dims(), tokens.dtype(), tokens.device());
    let (h, w) = (rows.side, columns.side);
    let x = to_f32(tokens).reshape([n, h, w * c]);
    let x = rows.tensor(&device).matmul(x).reshape([n * h, w, c]);
    let x = columns.tensor(&device).matmul(x).reshape([n, h * w, c]);
    from_f32(x, dtype)
}
