//! Weights in int8, a scale for each output channel, and what a layer loses by that.

use rayon::prelude::*;

use super::place::{widened, with_bytes};
use crate::products;
use crate::weight::WeightRows;

/// The most that a layer may lose by int8: the error of its product beside that of its own weight, RMS
/// and relative, where the inputs are independent of each other and of one size.
const TOLERATED: f64 = 0.02;

/// Rows whose losses are summed at a time.
const ROWS: usize = 16;

/// Sums that grow side by side.
const LANES: usize = 16;

/// Adding and subtracting it rounds a small number to the nearest whole one, ties to even, which is
/// then the sum's lowest bits.
const MAGIC: f32 = 12_582_912.0;

/// The scale of a row, and what its numbers are multiplied with before they are rounded.
fn scale(row: &[f32]) -> [f32; 2] {
    let (mut largest, mut poison) = ([0.0f32; LANES], [0.0f32; LANES]);
    let (lines, rest) = row.as_chunks::<LANES>();
    for line in lines.iter().map(|line| &line[..]).chain([rest]) {
        for ((largest, poison), x) in largest.iter_mut().zip(&mut poison).zip(line) {
            *largest = largest.max(x.abs());
            *poison += x * 0.0;
        }
    }
    let largest = largest.into_iter().fold(0.0, f32::max);
    products::scale(largest, poison.into_iter().sum())
}

/// Rounds a row to `to`. Gives its scale, which is NaN where one of its numbers is not finite.
pub(super) fn quantize(row: &[f32], to: &mut [u8]) -> f32 {
    let [scale, factor] = scale(row);
    for (to, x) in to.iter_mut().zip(row) {
        *to = (x * factor + MAGIC).to_bits() as u8;
    }
    scale
}

/// The squares of a row's numbers and of what rounding changes them by, summed.
fn squares(row: &[f32]) -> [f64; 2] {
    let [scale, factor] = scale(row);
    let mut sums = [[0.0f32; LANES]; 2];
    let [sizes, errors] = &mut sums;
    let (lines, rest) = row.as_chunks::<LANES>();
    for line in lines.iter().map(|line| &line[..]).chain([rest]) {
        for ((size, error), x) in sizes.iter_mut().zip(&mut *errors).zip(line) {
            let off = ((x * factor + MAGIC) - MAGIC) * scale - x;
            *size += x * x;
            *error += off * off;
        }
    }
    sums.map(|lanes| lanes.into_iter().map(f64::from).sum())
}

/// True where `weight`, `[rows, depth]`, loses no more than is tolerated. What is not finite loses all.
pub(crate) fn is_tolerated<W: WeightRows + ?Sized>(
    weight: &W,
    rows: usize,
    depth: usize,
) -> Result<bool, W::Error> {
    let stored = weight.dtype();
    let chunks = (0..rows.div_ceil(ROWS)).into_par_iter().map(|chunk| {
        let range = chunk * ROWS..rows.min((chunk + 1) * ROWS);
        with_bytes(range.len() * depth * stored.bytes(), |bytes| {
            weight.read(range, bytes)?;
            let mut sums = [0.0; 2];
            widened(bytes, stored, |wide| {
                for [size, error] in wide.chunks_exact(depth.max(1)).map(squares) {
                    sums = [sums[0] + size, sums[1] + error];
                }
            });
            Ok(sums)
        })
    });
    // One after the other, so that the sum is the same whatever the threads.
    let chunks = chunks.collect::<Result<Vec<_>, W::Error>>()?;
    let [size, error] = chunks
        .into_iter()
        .fold([0.0; 2], |sum, own| [sum[0] + own[0], sum[1] + own[1]]);
    Ok(error <= TOLERATED * TOLERATED * size)
}
