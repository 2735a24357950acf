use std::collections::VecDeque;
use std::ops::Range;

use burn::tensor::Tensor;
use sd_core::Result;
use sd_kernels::{Activation, Moments};

use super::moments::MomentsAccumulator;
use crate::layers::{self, Conv2d, Epilogue, GroupNorm, Measured, Normed, Rows};

/// A picture `[1, channels, height, width]` as strips of whole rows.
#[derive(Debug)]
pub(super) struct Strips {
    /// From top to bottom.
    strips: VecDeque<Tensor<4>>,
    /// The first row that is still held.
    first: usize,
    height: usize,
    /// Those of the whole picture, where it was measured.
    moments: Option<Moments>,
}

/// The making of a layer's output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    /// Rows of a strip.
    pub(super) rows: usize,
    /// True where a normalisation follows, so that the moments are needed.
    pub(super) measured: bool,
}

impl Strips {
    /// A picture in one strip.
    pub(super) fn whole(mut x: Tensor<4>, measured: bool) -> Result<Self> {
        let mut moments = MomentsAccumulator::default();
        if measured {
            moments.measure(&mut x);
        }
        Ok(Self {
            height: x.dims()[2],
            strips: [x].into(),
            first: 0,
            moments: moments.finish()?,
        })
    }

    /// A picture of `height` rows whose strips `each` makes, from top to bottom, and measures where it
    /// can.
    pub(super) fn build(
        height: usize,
        output: Output,
        mut each: impl FnMut(Range<usize>) -> (Tensor<4>, Option<Measured>),
    ) -> Result<Self> {
        let (mut strips, mut moments) = (VecDeque::new(), MomentsAccumulator::default());
        for rows in ranges(height, output.rows) {
            let (mut strip, measured) = each(rows);
            match measured {
                Some(measured) => moments.add(&strip, measured),
                None if output.measured => moments.measure(&mut strip),
                None => {}
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

    pub(super) fn height(&self) -> usize {
        self.height
    }

    /// A copy of some rows.
    pub(super) fn rows(&mut self, range: Range<usize>) -> Tensor<4> {
        layers::copy_rows(self.parts(range).1)
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
    pub(super) fn take(&mut self, range: Range<usize>) -> Tensor<4> {
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
    pub(super) fn forget_before(&mut self, row: usize) {
        while let Some(strip) = self.strips.pop_front() {
            let end = self.first + strip.dims()[2];
            if end > row {
                self.strips.push_front(strip);
                break;
            }
            self.first = end;
            layers::recycle(strip);
        }
    }

    /// The picture in one piece.
    pub(super) fn join(self) -> Tensor<4> {
        layers::concat_rows(self.strips.into())
    }

    /// `norm` of some rows of this picture, with the whole picture's moments; SiLU behind it where
    /// that is the `activation`.
    pub(super) fn normed(
        &mut self,
        range: Range<usize>,
        norm: &GroupNorm,
        activation: Activation,
    ) -> Tensor<4> {
        match self.parts(range) {
            (Some(moments), rows) => layers::group_norm_rows(norm, rows, moments, activation),
            (None, rows) => norm.forward(layers::copy_rows(rows), activation),
        }
    }

    /// Some rows of what `conv` makes of this picture, behind `norm` and a SiLU where there is one, and
    /// what was measured of them where that is wanted.
    pub(super) fn convolve(
        &mut self,
        (norm, conv): (Option<&GroupNorm>, &Conv2d),
        rows: Range<usize>,
        epilogue: Epilogue<4>,
        measured: bool,
    ) -> (Tensor<4>, Option<Measured>) {
        let reach = conv.reach(rows.clone(), self.height);
        let place = (reach.start, rows);
        if let (Some(norm), None) = (norm, &self.moments) {
            let x = self.normed(reach, norm, Activation::Silu);
            return (conv.forward_rows(x, place.0, place.1, epilogue), None);
        }
        let (moments, parts) = self.parts(reach);
        let normed = norm.zip(moments).map(|(norm, moments)| Normed {
            norm,
            activation: Activation::Silu,
            moments,
        });
        layers::conv2d_strip(conv, parts, normed, place, epilogue, measured)
    }
}

/// The strips of `height` rows, each of `rows`, the last of what is left.
pub(super) fn ranges(height: usize, rows: usize) -> impl Iterator<Item = Range<usize>> {
    let rows = rows.max(1);
    (0..height)
        .step_by(rows)
        .map(move |from| from..height.min(from + rows))
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
