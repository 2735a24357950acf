//! Attention where q·kᵀ is too large for half precision, and where all of it is too much for memory.

use burn::module::Param;
use burn::tensor::Tensor;
use sd_pipeline::models::testing::{Attention, AttentionConfig, Epilogue, Linear};
use sd_pipeline::{FloatDType, burn};

use crate::large_values::{download, upload, values};
use crate::report::{Log, largest_difference};
use crate::{Place, tolerance};

const WIDTH: usize = 64;

/// q·kᵀ of a token with itself is 10⁵, above f16's largest number.
pub(crate) fn large_values(place: &Place, log: &mut Log, tolerance: f64) {
    let tokens = values(48 * WIDTH, 0.5);
    let square: f32 = tokens[..WIDTH].iter().map(|v| v * v).sum();
    assert!(square > 65504.0, "large enough to overflow");
    let found = download(attend(&tokens, 1, place));
    let difference = largest_difference(&found, &expected(&tokens, 1, 1));
    log.at_most("attention", difference / (127.0 * 0.5), tolerance);
}

/// The scores of all tokens would be 512 MiB, four times what many adapters bind as one buffer.
pub(crate) fn many_tokens(place: &Place, log: &mut Log) {
    if place.dtype != FloatDType::F32 {
        return log.not_here();
    }
    let (heads, tokens) = (8, values(4096 * WIDTH, 1.0 / 64.0));
    let held = || {
        place.device.sync().expect("the device's work");
        let usage = place.device.memory_pool_usage();
        usage.map(|usage| usage.bytes_reserved as f64 / f64::from(1 << 20))
    };
    place.device.memory_cleanup();
    let before = held();
    let found = download(attend(&tokens, heads, place));
    // What was freed is kept for later, so this is the most that was in use at one time.
    let after = held();

    let every = 128;
    let some = found.chunks(WIDTH).step_by(every).flatten().copied();
    let some: Vec<f32> = some.collect();
    let difference = largest_difference(&some, &expected(&tokens, heads, every));
    let tolerance = 16.0 * tolerance::of(place.dtype).epsilon;
    log.at_most("difference", difference / 2.0, tolerance);
    if let (Some(before), Some(after)) = (before, after) {
        log.at_most("MiB", after - before, 512.0);
    }
}

/// Self-attention of `tokens`, which are queries, keys and values as they are.
fn attend(tokens: &[f32], heads: usize, place: &Place) -> Tensor<3> {
    let config = AttentionConfig {
        width: WIDTH,
        context_width: WIDTH,
        heads,
        bias: false,
        norm: None,
    };
    let mut layer = Attention::new(config, &place.device);
    let [to_out] = &mut layer.to_out;
    for projection in [&mut layer.to_q, &mut layer.to_k, &mut layer.to_v, to_out] {
        leave_as_it_is(place, projection);
    }
    let tokens = upload(tokens, [1, tokens.len() / WIDTH, WIDTH], place);
    let nothing = tokens.zeros_like();
    layer.forward(tokens, None, Epilogue::residual(nothing))
}

fn leave_as_it_is(place: &Place, projection: &mut Linear) {
    let one = |i| if i % (WIDTH + 1) == 0 { 1.0 } else { 0.0 };
    let weight: Vec<f32> = (0..WIDTH * WIDTH).map(one).collect();
    projection.weight = Param::from_tensor(upload(&weight, [WIDTH, WIDTH], place));
    if projection.bias.is_some() {
        projection.bias = Some(Param::from_tensor(upload(&[0.0; WIDTH], [WIDTH], place)));
    }
}

/// What each `every`th of `tokens` gathers (Vaswani et al. 2017, equation 1), in f64.
fn expected(tokens: &[f32], heads: usize, every: usize) -> Vec<f64> {
    let tokens: Vec<f64> = tokens.iter().map(|v| f64::from(*v)).collect();
    let rows: Vec<&[f64]> = tokens.chunks(WIDTH).collect();
    let width = WIDTH / heads;
    let of_head = |query: &[f64], head: usize| {
        let part = head * width..(head + 1) * width;
        let query = &query[part.clone()];
        let dot = |key: &[f64]| query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>();
        let scores = rows.iter().map(|row| dot(&row[part.clone()]));
        let scores: Vec<f64> = scores.map(|score| score / (width as f64).sqrt()).collect();
        let most = scores.iter().copied().fold(f64::MIN, f64::max);
        let shares: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
        let all: f64 = shares.iter().sum();
        let value = |i: usize| {
            let weighted = rows.iter().zip(&shares).map(|(row, share)| row[i] * share);
            weighted.sum::<f64>() / all
        };
        part.map(value).collect::<Vec<f64>>()
    };
    let queries = rows.iter().step_by(every);
    let heads = queries.flat_map(|query| (0..heads).map(move |head| (query, head)));
    heads
        .flat_map(|(query, head)| of_head(query, head))
        .collect()
}
