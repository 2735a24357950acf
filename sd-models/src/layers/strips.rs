//! Pictures too large to be held whole several times: computed in strips of rows.
//!
//! A convolution needs one row more than its strip above and below, which the neighbouring strips
//! have. A normalisation needs the mean and deviation of the whole picture; they are collected
//! while the strips are made. So the result is that of the whole picture, and nothing is computed
//! twice. What is saved is every intermediate result inside a layer, which is held for one strip
//! instead of for all.

use std::collections::VecDeque;
use std::ops::Range;

use burn::tensor::Tensor;
use sd_core::{Error, Result};
use sd_kernels::{Activation, Moments};

use super::cpu::expect_shapes;
use super::dispatch::{self, Measured, Rows};
use super::{Conv2d, Epilogue, GroupNorm};

/// A picture `[1, channels, height, width]` as strips of whole rows.
#[derive(Debug)]
pub(crate) struct Strips {
    /// From top to bottom.
    strips: VecDeque<Tensor<4>>,
    /// The first row that is still held.
    first: usize,
    height: usize,
    moments: Option<Moments>,
}

/// The making of a layer's output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Rows of a strip.
    pub(crate) rows: usize,
    /// Whether a normalisation follows, so that the moments are needed.
    pub(crate) measured: bool,
}

impl Strips {
    /// A picture in one strip, its moments unknown.
    pub(crate) fn whole(x: Tensor<4>) -> Self {
        Self {
            height: x.dims()[2],
            strips: [x].into(),
            first: 0,
            moments: None,
        }
    }

    /// A picture of `height` rows whose strips `each` makes, from top to bottom.
    pub(crate) fn build(
        height: usize,
        output: Output,
        mut each: impl FnMut(Range<usize>) -> Tensor<4>,
    ) -> Result<Self> {
        let (mut strips, mut moments) = (VecDeque::new(), MomentsAccumulator::default());
        for rows in ranges(height, output.rows) {
            let mut strip = each(rows);
            if output.measured {
                moments.add(&mut strip);
            }
            strips.push_back(strip);
        }
        Ok(Self {
            strips,
            first: 0,
            height,
            moments: moments.finish()?,
        })
    }

    pub(crate) fn height(&self) -> usize {
        self.height
    }

    /// A copy of some rows.
    pub(crate) fn rows(&mut self, range: Range<usize>) -> Tensor<4> {
        dispatch::copy_rows(self.parts(range).1)
    }

    /// The moments, and of each strip that has some of the rows which these are.
    fn parts(&mut self, range: Range<usize>) -> (Option<&Moments>, impl Iterator<Item = Rows<'_>>) {
        let mut top = self.first;
        let parts = self.strips.iter_mut().filter_map(move |strip| {
            let (first, rows) = (top, strip.dims()[2]);
            top += rows;
            let (from, end) = (range.start.max(first), range.end.min(top));
            let rows = from.saturating_sub(first)..end.saturating_sub(first);
            (from < end).then_some(Rows { strip, rows })
        });
        (self.moments.as_ref(), parts)
    }

    /// Some rows; they and all above are then gone.
    pub(crate) fn take(&mut self, range: Range<usize>) -> Tensor<4> {
        let is_first = range.start == self.first
            && (self.strips.front()).is_some_and(|strip| strip.dims()[2] == range.len());
        if is_first && let Some(strip) = self.strips.pop_front() {
            self.first = range.end;
            return strip;
        }
        let rows = self.rows(range.clone());
        self.forget_before(range.end);
        rows
    }

    /// Frees the strips that end at or before `row`.
    pub(crate) fn forget_before(&mut self, row: usize) {
        while let Some(strip) = self.strips.front() {
            let end = self.first + strip.dims()[2];
            if end > row {
                break;
            }
            self.first = end;
            self.strips.pop_front();
        }
    }

    /// The picture in one piece.
    pub(crate) fn join(self) -> Tensor<4> {
        dispatch::concat_rows(self.strips.into())
    }

    /// `norm` of some rows of this picture, with the whole picture's moments; SiLU behind it where
    /// that is the `activation`.
    pub(crate) fn normed(
        &mut self,
        range: Range<usize>,
        norm: &GroupNorm,
        activation: Activation,
    ) -> Tensor<4> {
        match self.parts(range) {
            (Some(moments), rows) => dispatch::group_norm_rows(norm, rows, moments, activation),
            (None, rows) => norm.forward(dispatch::copy_rows(rows), activation),
        }
    }
}

/// The strips of `height` rows, each of `rows`, the last of what is left.
pub(crate) fn ranges(height: usize, rows: usize) -> impl Iterator<Item = Range<usize>> {
    let rows = rows.max(1);
    (0..height)
        .step_by(rows)
        .map(move |from| from..height.min(from + rows))
}

/// A convolution of strips.
#[derive(Clone, Copy)]
pub(crate) struct StripConv<'a> {
    pub(crate) conv: &'a Conv2d,
    /// A normalisation and SiLU before it.
    pub(crate) norm: Option<&'a GroupNorm>,
}

impl StripConv<'_> {
    /// The convolution of `x`, which stays.
    pub(crate) fn of(&self, x: &mut Strips, output: Output) -> Result<Strips> {
        let height = self.conv.output_height(x.height());
        Strips::build(height, output, |rows| self.strip(x, rows, None))
    }

    /// The convolution of `x`, plus the strips that `residual` makes; `x` is freed on the way.
    pub(crate) fn consume(
        &self,
        mut x: Strips,
        output: Output,
        mut residual: impl FnMut(Range<usize>) -> Option<Tensor<4>>,
    ) -> Result<Strips> {
        let height = self.conv.output_height(x.height());
        Strips::build(height, output, |rows| {
            let strip = self.strip(&mut x, rows.clone(), residual(rows.clone()));
            let next = rows.end..(rows.end + 1).min(height);
            let done = match next.is_empty() {
                true => x.height(),
                false => self.conv.reach(next, x.height()).start,
            };
            x.forget_before(done);
            strip
        })
    }

    fn strip(&self, x: &mut Strips, rows: Range<usize>, residual: Option<Tensor<4>>) -> Tensor<4> {
        let reach = (self.conv).reach(rows.clone(), x.height());
        let input = match self.norm {
            Some(norm) => x.normed(reach.clone(), norm, Activation::Silu),
            None => x.rows(reach.clone()),
        };
        let residual = residual.map_or(Epilogue::NONE, Epilogue::residual);
        (self.conv).forward_rows(input, reach.start, rows, residual)
    }
}

/// A picture's moments, collected from its strips.
#[derive(Default)]
struct MomentsAccumulator {
    host: Option<Moments>,
    /// Pixels of each strip, and its channels' variances and means, `[channels, 2]`: they stay on
    /// the device until all are there, so that it is waited for once.
    device: Vec<(usize, Tensor<2>)>,
}

impl MomentsAccumulator {
    fn add(&mut self, strip: &mut Tensor<4>) {
        match dispatch::moments(strip) {
            Measured::Host(moments) => self.merge(moments),
            Measured::Device(moments) => {
                let [_, _, rows, width] = strip.dims();
                self.device.push((rows * width, moments));
            }
        }
    }

    fn merge(&mut self, moments: Moments) {
        match &mut self.host {
            Some(all) => expect_shapes(all.merge(&moments)),
            None => self.host = Some(moments),
        }
    }

    fn finish(mut self) -> Result<Option<Moments>> {
        if self.device.is_empty() {
            return Ok(self.host);
        }
        let device = std::mem::take(&mut self.device);
        let (pixels, parts): (Vec<usize>, Vec<Tensor<2>>) = device.into_iter().unzip();
        let width = 2 * pixels.len();
        let values = Tensor::cat(parts, 1).try_into_vec_as::<f32>();
        let values = values.map_err(|e| Error::backend("reading a picture's mean", e))?;
        let column = |i: usize| -> Vec<f64> {
            let column = values.iter().skip(i).step_by(width);
            column.map(|x| f64::from(*x)).collect()
        };
        for (i, pixels) in pixels.into_iter().enumerate() {
            let moments = Moments::new(pixels, column(2 * i + 1), column(2 * i));
            self.merge(expect_shapes(moments));
        }
        Ok(self.host)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn strips_cover_every_row_once(height in 0usize..100, rows in 0usize..120) {
            let strips: Vec<_> = ranges(height, rows).collect();
            let all: Vec<usize> = strips.iter().cloned().flatten().collect();
            prop_assert_eq!(all, (0..height).collect::<Vec<_>>());
            prop_assert!(strips.iter().all(|strip| strip.len() <= rows.max(1)));
        }
    }
}
