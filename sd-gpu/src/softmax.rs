use burn::tensor::{DType, Tensor};
use cubecl::prelude::*;

use crate::sums::{largest_of_units, sum_of_units};
use crate::tensor::{cube, cubes, elem, empty, reshaped, rows, tensor, units_for};

/// A cube makes a row: `queries` rows belong together, of which the `i`-th sees the keys before
/// `seen + i` where `causal`.
#[cube(launch)]
fn softmax_kernel<I: Float, O: Float>(
    scores: &[I],
    out: &mut [O],
    rows: u32,
    queries: u32,
    keys: u32,
    seen: u32,
    scale: f32,
    #[comptime] causal: bool,
    #[comptime] units: u32,
    #[define(I, O)] _dtypes: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let mut shared = Shared::<[f32]>::new_slice(units as usize);
    let keys = keys as usize;
    let first = row * keys;
    let mut limit = keys;
    if comptime!(causal) {
        limit = seen as usize + row % queries as usize;
    }

    let mut largest = f32::cast_from(scores[first]);
    let mut i = UNIT_POS as usize;
    while i < limit {
        let score = f32::cast_from(scores[first + i]);
        if score > largest {
            largest = score;
        }
        i += CUBE_DIM as usize;
    }
    let largest = largest_of_units(&mut shared, largest);

    let mut sum = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < limit {
        sum += ((f32::cast_from(scores[first + i]) - largest) * scale).exp();
        i += CUBE_DIM as usize;
    }
    let sum = sum_of_units(&mut shared, sum);

    let mut i = UNIT_POS as usize;
    while i < keys {
        let mut share = 0.0f32;
        if i < limit {
            share = ((f32::cast_from(scores[first + i]) - largest) * scale).exp() / sum;
        }
        out[first + i] = O::cast_from(share);
        i += CUBE_DIM as usize;
    }
}

/// `softmax(scale · scores)` over the last dimension of `[n, heads, queries, keys]`, in precision
/// `dtype`; with `causal` a query sees only itself and those before it. `scale` is above zero.
pub(crate) fn softmax(scores: Tensor<4>, scale: f64, causal: bool, dtype: DType) -> Tensor<4> {
    let [n, heads, queries, keys] = scores.dims();
    let scores = rows(cube(scores));
    let all = n * heads * queries;
    let client = scores.client.clone();
    let out = empty(&scores, [all, keys], dtype);
    let types = [elem(&scores), elem(&out)];
    let units = units_for(&client, keys);
    let (count, dim) = cubes(&client, all, units);
    softmax_kernel::launch(
        &client,
        count,
        dim,
        scores.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        all as u32,
        queries as u32,
        keys as u32,
        (keys + 1).saturating_sub(queries) as u32,
        scale as f32,
        causal,
        units,
        types,
    );
    tensor(reshaped(out, [n, heads, queries, keys]))
}
