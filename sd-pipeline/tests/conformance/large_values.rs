//! Normalisations of numbers whose squares and sums no half precision holds, and attention.

use burn::module::Param;
use burn::tensor::{DType, Tensor, TensorData};
use sd_pipeline::burn;
use sd_pipeline::models::testing::{Activation, Conv2d, Epilogue, GroupNorm, LayerNorm, Padding};

use crate::report::{Log, largest_difference};
use crate::{Place, attention, tolerance};

const WIDTH: usize = 64;
const TOKENS: usize = 48;

pub(crate) fn check(place: &Place, log: &mut Log) {
    let epsilon = tolerance::of(place.dtype).epsilon;
    attention::large_values(place, log, 16.0 * epsilon);
    convolution(place, log, 16.0 * epsilon);
    group_norm(place, log, 16.0 * epsilon);
    layer_norm(place, log, 16.0 * epsilon);
}

/// `count` multiples of `unit` from -127 to 127, which every precision holds exactly.
pub(crate) fn values(count: usize, unit: f32) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as i32 % 128 * if state & 0x8000 == 0 { 1 } else { -1 }
    };
    (0..count).map(|_| next() as f32 * unit).collect()
}

pub(crate) fn upload<const D: usize>(
    values: &[f32],
    shape: [usize; D],
    place: &Place,
) -> Tensor<D> {
    let data = TensorData::new(values.to_vec(), shape);
    Tensor::from_data(data, (&place.device, DType::from(place.dtype)))
}

pub(crate) fn download<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.try_into_vec_as::<f32>().expect("the device's values")
}

/// A sum of 2304 positive products: where it is kept in half precision it stops growing.
fn convolution(place: &Place, log: &mut Log, tolerance: f64) {
    let (channels, side) = (256, 3);
    let positive = |count| {
        values(count, 1.0 / 64.0)
            .into_iter()
            .map(f32::abs)
            .collect()
    };
    let (x, weight): (Vec<f32>, Vec<f32>) =
        (positive(channels * side * side), positive(channels * 9));
    let padding = Padding::Even(0);
    let mut layer = Conv2d::new([channels, 1], side, 1, padding, &place.device);
    layer.weight = Param::from_tensor(upload(&weight, [1, channels, 3, 3], place));
    layer.bias = Some(Param::from_tensor(upload(&[0.0], [1], place)));
    let x_tensor = upload(&x, [1, channels, side, side], place);
    let found = download(layer.forward(x_tensor, Epilogue::NONE));
    let products = x.iter().zip(&weight);
    let expected: f64 = products.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
    let difference = largest_difference(&found, &[expected]);
    log.at_most("convolution", difference / expected, tolerance);
}

/// Large numbers in a small picture, and so many in one group that their order of adding shows.
fn group_norm(place: &Place, log: &mut Log, tolerance: f64) {
    for (channels, groups, side, unit) in [(8, 2, 12, 256.0), (8, 1, 160, 1.0 / 64.0)] {
        let mut layer = GroupNorm::new(groups, channels, 1e-5, &place.device);
        layer.weight = Param::from_tensor(upload(&vec![1.0; channels], [channels], place));
        layer.bias = Param::from_tensor(upload(&vec![0.0; channels], [channels], place));
        let x = values(channels * side * side, unit);
        let picture = upload(&x, [1, channels, side, side], place);
        let found = download(layer.forward(picture, Activation::None));
        let expected = normalised(&x, channels / groups * side * side);
        let difference = largest_difference(&found, &expected);
        log.at_most(format!("group norm {side}²"), difference, tolerance);
    }
}

fn layer_norm(place: &Place, log: &mut Log, tolerance: f64) {
    let mut layer = LayerNorm::new(WIDTH, 1e-5, &place.device);
    layer.weight = Param::from_tensor(upload(&[1.0; WIDTH], [WIDTH], place));
    layer.bias = Param::from_tensor(upload(&[0.0; WIDTH], [WIDTH], place));
    let x = values(TOKENS * WIDTH, 256.0);
    let found = download(layer.forward(upload(&x, [1, TOKENS, WIDTH], place)));
    let expected = normalised(&x, WIDTH);
    log.at_most(
        "layer norm",
        largest_difference(&found, &expected),
        tolerance,
    );
}

/// Each `length` numbers less their mean, divided by their standard deviation.
fn normalised(x: &[f32], length: usize) -> Vec<f64> {
    let normalise = |group: &[f32]| {
        let group: Vec<f64> = group.iter().map(|v| f64::from(*v)).collect();
        let mean = group.iter().sum::<f64>() / length as f64;
        let variance = group.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / length as f64;
        let deviation = (variance + 1e-5).sqrt();
        group
            .into_iter()
            .map(move |v| (v - mean) / deviation)
            .collect::<Vec<_>>()
    };
    x.chunks(length).flat_map(normalise).collect()
}
