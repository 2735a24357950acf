use burn::tensor::Tensor;
use cubecl::prelude::*;

use crate::products::{multiplied, part_of, slab};
use crate::tensor::{cube, elem, empty, in_precision, reshaped, rows, tensor, units};

/// Where the `i`-th number of `[n, tokens, heads, width]` is in `[n, heads, tokens, width]`.
#[cube]
fn head_major(i: usize, tokens: usize, heads: usize, width: usize) -> usize {
    let within = i % width;
    let head = i / width % heads;
    let row = i / (width * heads);
    let (n, token) = (row / tokens, row % tokens);
    ((n * heads + head) * tokens + token) * width + within
}

/// Numbers of queries, keys and values, each `[n, tokens, heads, width]`, to
/// `[n, heads, tokens, width]`, each so many numbers behind the beginning.
#[cube(launch)]
fn split_three_kernel<F: Float>(
    query: &[F],
    key: &[F],
    value: &[F],
    out: &mut [F],
    queries: u32,
    keys: u32,
    heads: u32,
    width: u32,
    key_first: u32,
    value_first: u32,
    query_elements: u32,
    key_elements: u32,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    let (heads, width) = (heads as usize, width as usize);
    let (queries, keys) = (queries as usize, keys as usize);
    let (query_elements, key_elements) = (query_elements as usize, key_elements as usize);
    let both = query_elements + key_elements;
    if i < query_elements {
        out[head_major(i, queries, heads, width)] = query[i];
    } else if i < both {
        let i = i - query_elements;
        out[key_first as usize + head_major(i, keys, heads, width)] = key[i];
    } else if i < both + key_elements {
        let i = i - both;
        out[value_first as usize + head_major(i, keys, heads, width)] = value[i];
    }
}

/// Queries `[n, tokens, heads · width]`, and keys and values of as many tokens as each other, each as
/// `[n, heads, tokens, width]`.
pub(crate) fn split_three([query, key, value]: [Tensor<3>; 3], heads: usize) -> [Tensor<4>; 3] {
    let ([n, queries, all], [_, keys, _]) = (query.dims(), key.dims());
    let dtype = query.dtype();
    let [query, key, value] = [query, key, value].map(|x| rows(cube(in_precision(x, dtype))));
    let (client, size, width) = (query.client.clone(), query.dtype.size(), all / heads);
    let (query_elements, key_elements) = (n * queries * all, n * keys * all);
    let first = slab(&client, query_elements, size);
    let other = slab(&client, key_elements, size);
    let out = empty(&query, [first + 2 * other], query.dtype);
    let (count, dim) = units(&client, query_elements + 2 * key_elements);
    let dtype = elem(&query);
    split_three_kernel::launch(
        &client,
        count,
        dim,
        query.into_buffer_arg(),
        key.into_buffer_arg(),
        value.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        queries as u32,
        keys as u32,
        heads as u32,
        width as u32,
        first as u32,
        (first + other) as u32,
        query_elements as u32,
        key_elements as u32,
        dtype,
    );
    let keys = [n, heads, keys, width];
    [
        part_of(&out, 0, 2 * other, [n, heads, queries, width]),
        part_of(&out, first, other, keys),
        part_of(&out, first + other, 0, keys),
    ]
    .map(tensor)
}

/// The values `[n, heads, keys, width]` in these shares of `[n, heads, queries, keys]`, heads side by
/// side in tokens `[n, queries, heads · width]`.
pub(crate) fn values(shares: Tensor<4>, values: Tensor<4>) -> Tensor<3> {
    let ([n, heads, queries, _], [_, _, _, width]) = (shares.dims(), values.dims());
    let shares = in_precision(shares, values.dtype());
    let (shares, values) = (cube(shares), cube(values));
    let (dtype, out) = (values.dtype, [n, queries, heads, width]);
    let mut out = empty(&values, out, dtype);
    out.meta.swap(1, 2);
    let out = multiplied(shares, values, Some(out), dtype);
    tensor(reshaped(out, [n, queries, heads * width]))
}
