//! Attention and normalisations of numbers whose squares and products no half precision holds.

use burn::module::Param;
use burn::tensor::{DType, Tensor, TensorData};
use sd_pipeline::burn;
use sd_pipeline::models::layers::{Attention, AttentionConfig, GroupNorm, LayerNorm, Linear};

use crate::report::{Log, largest_difference};
use crate::{Place, tolerance};

const WIDTH: usize = 64;
const TOKENS: usize = 48;

pub(crate) fn check(place: &Place, log: &mut Log) {
    let epsilon = tolerance::of(place.dtype).epsilon;
    attention(place, log, 16.0 * epsilon);
    group_norm(place, log, 16.0 * epsilon);
    layer_norm(place, log, 16.0 * epsilon);
}

/// `count` multiples of `unit` from -127 to 127, which every precision holds exactly.
fn values(count: usize, unit: f32) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as i32 % 128 * if state & 0x8000 == 0 { 1 } else { -1 }
    };
    (0..count).map(|_| next() as f32 * unit).collect()
}

fn upload<const D: usize>(values: &[f32], shape: [usize; D], place: &Place) -> Tensor<D> {
    let data = TensorData::new(values.to_vec(), shape);
    Tensor::from_data(data, (&place.device, DType::from(place.dtype)))
}

fn download<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.try_into_vec_as::<f32>().expect("the device's values")
}

/// A projection that leaves its input as it is.
fn identity(place: &Place, layer: &mut Linear) {
    let one = |i| if i % (WIDTH + 1) == 0 { 1.0 } else { 0.0 };
    let weight: Vec<f32> = (0..WIDTH * WIDTH).map(one).collect();
    layer.weight = Param::from_tensor(upload(&weight, [WIDTH, WIDTH], place));
    if layer.bias.is_some() {
        layer.bias = Some(Param::from_tensor(upload(&[0.0; WIDTH], [WIDTH], place)));
    }
}

/// q·kᵀ of a token with itself is 10⁵, above f16's largest number.
fn attention(place: &Place, log: &mut Log, tolerance: f64) {
    let config = AttentionConfig {
        width: WIDTH,
        context_width: WIDTH,
        heads: 1,
        bias: false,
        norm: None,
    };
    let mut layer = Attention::new(config, &place.device);
    let Attention {
        to_q,
        to_k,
        to_v,
        to_out,
        ..
    } = &mut layer;
    for projection in [to_q, to_k, to_v, &mut to_out[0]] {
        identity(place, projection);
    }
    let x = values(TOKENS * WIDTH, 0.5);
    let tokens = upload(&x, [1, TOKENS, WIDTH], place);
    let nothing = tokens.zeros_like();
    let found = download(layer.forward_self_onto(tokens, nothing));
    let x: Vec<f64> = x.into_iter().map(f64::from).collect();
    let rows: Vec<&[f64]> = x.chunks(WIDTH).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    assert!(dot(rows[0], rows[0]) > 65504.0, "large enough to overflow");
    let expected = rows.iter().flat_map(|query| {
        let scores = rows
            .iter()
            .map(|key| dot(query, key) / (WIDTH as f64).sqrt());
        let scores: Vec<f64> = scores.collect();
        let most = scores.iter().copied().fold(f64::MIN, f64::max);
        let shares: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
        let all: f64 = shares.iter().sum();
        let value = |i: usize| {
            let weighted = rows.iter().zip(&shares).map(|(row, share)| row[i] * share);
            weighted.sum::<f64>() / all
        };
        (0..WIDTH).map(value).collect::<Vec<f64>>()
    });
    let expected: Vec<f64> = expected.collect();
    let largest = 127.0 * 0.5;
    let difference = largest_difference(&found, &expected) / largest;
    log.at_most("attention", difference, tolerance);
}

fn group_norm(place: &Place, log: &mut Log, tolerance: f64) {
    let (channels, groups, side) = (8, 2, 12);
    let mut layer = GroupNorm::new(groups, channels, 1e-5, &place.device);
    layer.weight = Param::from_tensor(upload(&[1.0; 8], [channels], place));
    layer.bias = Param::from_tensor(upload(&[0.0; 8], [channels], place));
    let x = values(channels * side * side, 256.0);
    let picture = upload(&x, [1, channels, side, side], place);
    let found = download(layer.forward(picture));
    let expected = normalised(&x, channels / groups * side * side);
    log.at_most(
        "group norm",
        largest_difference(&found, &expected),
        tolerance,
    );
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
