use burn::tensor::{Device, Tensor};
use sd_kernels::take_output;

use super::expect_shapes;
use super::values::{Values, lend_pixels, picture, pixels};
pub(super) use crate::layers::Rows;

/// Copied by all threads; a mere clone would be a copy made by one, when it is first read.
pub(in crate::layers) fn duplicate(x: &mut Tensor<4>) -> Tensor<4> {
    let ([n, c, h, w], device) = (x.dims(), x.device());
    lend_pixels(x, |x| {
        let mut copy = take_output(x.len());
        expect_shapes(sd_kernels::copy(x, &mut copy));
        picture(copy, [n, h, w, c], &device)
    })
}

/// Its memory will be a later layer's output.
pub(in crate::layers) fn recycle(x: Tensor<4>) {
    drop(pixels(x));
}

pub(in crate::layers) fn concat_channels(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    let ([n, channels_a, h, w], channels_b) = (a.dims(), b.dims()[1]);
    let (device, count) = (a.device(), n * h * w);
    let (a, b) = (pixels(a), pixels(b));
    let mut out = take_output(a.len() + b.len());
    expect_shapes(sd_kernels::concat_channels(
        &a, channels_a, &b, channels_b, count, &mut out,
    ));
    picture(out, [n, h, w, channels_a + channels_b], &device)
}

/// Copies of rows, one below the other.
pub(in crate::layers) fn copy_rows<'a>(rows: impl Iterator<Item = Rows<'a>>) -> Tensor<4> {
    collect_rows(rows, |x, out| expect_shapes(sd_kernels::copy(x, out)))
}

/// Rows of several strips, one below the other, as `write` makes them of each strip's.
pub(super) fn collect_rows<'a>(
    rows: impl Iterator<Item = Rows<'a>>,
    write: impl Fn(&[f32], &mut [f32]),
) -> Tensor<4> {
    let all: Vec<Rows<'_>> = rows.collect();
    let Some(first) = all.first() else {
        unreachable!("a layer needs at least one row of its input");
    };
    let ([_, channels, _, width], device) = (first.strip.dims(), first.strip.device());
    let (count, line) = (
        all.iter().map(|part| part.rows.len()).sum(),
        channels * width,
    );
    let mut out = take_output(count * line);
    let mut rest = &mut out[..];
    for Rows { strip, rows } in all {
        let (here, below) = rest.split_at_mut(rows.len() * line);
        rest = below;
        lend_pixels(strip, |x| {
            write(&x[rows.start * line..rows.end * line], here);
        });
    }
    picture(out, [1, count, width, channels], &device)
}

/// Calls `read` with the numbers of rows of several strips of a picture, which are whole again
/// afterwards, their width and their device.
pub(super) fn lend_rows<R>(
    mut all: Vec<Rows<'_>>,
    read: impl FnOnce(&[&[f32]], usize, &Device) -> R,
) -> R {
    let Some(first) = all.first() else {
        unreachable!("a layer needs at least one row of its input");
    };
    let ([_, channels, _, width], device) = (first.strip.dims(), first.strip.device());
    let take = |part: &mut Rows<'_>| {
        let empty = Tensor::empty([1; 4], &device);
        pixels(std::mem::replace(part.strip, empty))
    };
    let held: Vec<Values> = all.iter_mut().map(take).collect();
    let line = channels * width;
    let parts = held
        .iter()
        .zip(&all)
        .map(|(x, Rows { rows, .. })| &x[rows.start * line..rows.end * line]);
    let result = read(&parts.collect::<Vec<_>>(), width, &device);
    for (Rows { strip, .. }, x) in all.into_iter().zip(held) {
        *strip = x.into_picture(&device);
    }
    result
}
