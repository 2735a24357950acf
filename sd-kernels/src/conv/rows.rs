//! The rows of a convolution's input, and what happens to their pixels before they are multiplied.

use super::geometry::{ConvShape, Picture, Pixels};
use crate::copy::copy;
use crate::error::{Error, Result, check_len};
use crate::norm::{Factors, GroupNorm, Moments, group_norm_with};
use crate::outputs::take_output;
use crate::simd::Isa;

/// Rows of a picture as a convolution reads them.
#[derive(Clone, Copy, Debug)]
pub struct StripInput<'a> {
    /// Whole rows of pixels, one part below the other, each `[rows, width, inputs]`.
    pub parts: &'a [&'a [f32]],
    /// Pixels of a row.
    pub width: usize,
    /// A normalisation that the pixels go through before, with the whole picture's moments.
    pub norm: Option<(GroupNorm<'a>, &'a Moments)>,
}

impl StripInput<'_> {
    /// The size of all parts together.
    pub(super) fn picture(&self, channels: usize) -> Result<Picture> {
        if let Some((norm, moments)) = self.norm {
            norm.check()?;
            check_len("the normalisation", norm.weight.len(), &[channels])?;
            check_len("the moments", moments.channels(), &[channels])?;
        }
        let line = self.line(channels);
        if let Some(part) = self.parts.iter().find(|part| part.len() % line != 0) {
            return Err(Error::Dimension {
                name: "numbers of a part",
                value: part.len(),
                expected: "a multiple of a row's",
            });
        }
        Ok(Picture {
            n: 1,
            height: self.parts.iter().map(|part| part.len() / line).sum(),
            width: self.width,
        })
    }

    /// Numbers of a row.
    fn line(&self, channels: usize) -> usize {
        self.width.saturating_mul(channels).max(1)
    }

    /// A copy of the pixels, normalised.
    pub(super) fn collect(&self, isa: Isa) -> Result<Vec<f32>> {
        let mut all = take_output(self.parts.iter().map(|part| part.len()).sum());
        let mut rest = &mut all[..];
        for part in self.parts {
            let (here, below) = rest.split_at_mut(part.len());
            rest = below;
            match self.norm {
                Some((norm, moments)) => group_norm_with(isa, part, moments, norm, here)?,
                None => copy(part, here)?,
            }
        }
        Ok(all)
    }
}

/// The places of the rows of a convolution's input.
pub(crate) struct PixelRows {
    /// Of each picture from top to bottom.
    rows: Vec<*const f32>,
    picture: Picture,
    channels: usize,
    upsample: bool,
    /// What the pixels go through; none where they are taken as they are.
    pub(super) factors: Option<Factors>,
}

// SAFETY: what the pointers point to is read only.
unsafe impl Send for PixelRows {}
// SAFETY: as above.
unsafe impl Sync for PixelRows {}

impl PixelRows {
    /// Those of pixels that lie one behind the other and are taken as they are.
    pub(super) fn plain(input: Pixels) -> Self {
        let Pixels {
            picture, channels, ..
        } = input;
        let row = |y| input.data.wrapping_add(y * picture.width * channels);
        Self {
            rows: (0..picture.n * picture.height).map(row).collect(),
            picture,
            channels,
            upsample: input.upsample,
            factors: None,
        }
    }

    /// Those of a strip whose rows are a `picture`.
    pub(super) fn strip(input: StripInput<'_>, picture: Picture, shape: ConvShape) -> Self {
        let line = input.line(shape.inputs);
        let rows = (input.parts.iter()).flat_map(|part| part.chunks_exact(line).map(<[_]>::as_ptr));
        let factors = (input.norm).map(|(norm, moments)| norm.factors(moments, None));
        Self {
            rows: rows.collect(),
            picture,
            channels: shape.inputs,
            upsample: shape.upsample,
            factors,
        }
    }

    /// Row `y` of the (enlarged) picture `n`; none in the padding.
    #[inline(always)]
    pub(super) fn row(&self, n: usize, y: isize) -> Option<*const f32> {
        let height = self.picture.height;
        let y = usize::try_from(y).ok()? >> u32::from(self.upsample);
        (y < height).then(|| self.rows[n * height + y])
    }

    /// The channels of the pixel at `x` of a `row`; none in the padding.
    #[inline(always)]
    pub(super) fn pixel(&self, row: *const f32, x: isize) -> Option<*const f32> {
        let x = usize::try_from(x).ok()? >> u32::from(self.upsample);
        (x < self.picture.width).then(|| row.wrapping_add(x * self.channels))
    }
}
