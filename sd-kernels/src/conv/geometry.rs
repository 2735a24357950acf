use crate::error::{Error, Result};

/// The sizes of one convolution: `[n, height, width, inputs]` to `[n, out_height, out_width,
/// outputs]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pictures in the batch.
    pub n: usize,
    /// Height of the input, in pixels.
    pub height: usize,
    /// Width of the input, in pixels.
    pub width: usize,
}

/// Kernel, stride and padding of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Distance of neighbouring outputs, in input pixels.
    pub stride: usize,
    /// Zeros above and at the left.
    pub pad_before: usize,
    /// Zeros below and at the right.
    pub pad_after: usize,
    /// The input is enlarged twofold, nearest neighbour, before the convolution sees it.
    pub upsample: bool,
}

impl ConvShape {
    /// `kernel` × `kernel` (odd) with stride 1 that keeps height and width.
    pub const fn same(inputs: usize, outputs: usize, kernel: usize) -> Self {
        Self {
            inputs,
            outputs,
            kernel,
            stride: 1,
            pad_before: kernel / 2,
            pad_after: kernel / 2,
            upsample: false,
        }
    }

    /// The same on the input enlarged twofold.
    pub const fn upsampled(self) -> Self {
        Self {
            upsample: true,
            ..self
        }
    }

    /// Height and width of the output.
    ///
    /// # Errors
    /// A padded input smaller than the kernel.
    pub fn output(&self, picture: Picture) -> Result<(usize, usize)> {
        Ok((
            self.output_side("height", picture.height)?,
            self.output_side("width", picture.width)?,
        ))
    }

    /// All rows of the output of a whole picture.
    pub(crate) fn output_rows(&self, picture: Picture) -> Result<OutputRows> {
        Ok(OutputRows {
            first: -(self.pad_before as isize),
            count: self.output(picture)?.0,
        })
    }

    pub(crate) fn output_side(&self, name: &'static str, size: usize) -> Result<usize> {
        let enlarged = if self.upsample { 2 * size } else { size };
        (enlarged + self.pad_before + self.pad_after)
            .checked_sub(self.kernel)
            .map(|span| span / self.stride + 1)
            .ok_or(Error::Dimension {
                name,
                value: size,
                expected: "at least the kernel's size with padding",
            })
    }

    pub(crate) fn check(&self) -> Result<()> {
        for (name, value) in [("kernel", self.kernel), ("stride", self.stride)] {
            if value == 0 {
                return Err(Error::Dimension {
                    name,
                    value,
                    expected: "at least 1",
                });
            }
        }
        Ok(())
    }
}

/// Some rows of a convolution's output, computed from a strip of its input: whole rows of it, as
/// many as the kernel reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputRows {
    /// The strip's row (of the enlarged strip, where the convolution enlarges) under the kernel's
    /// first row at the first output row: negative where the kernel begins in the padding above.
    /// What the kernel reaches outside the strip is zero.
    pub first: isize,
    /// Number of rows of output.
    pub count: usize,
}

impl OutputRows {
    pub(crate) fn check(&self, shape: ConvShape, strip: Picture) -> Result<()> {
        let value = self.first.unsigned_abs();
        if value <= strip.height.saturating_mul(2).saturating_add(shape.kernel) {
            return Ok(());
        }
        Err(Error::Dimension {
            name: "first row",
            value,
            expected: "within the strip",
        })
    }
}

/// Places of the pixels of a convolution's input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pixels {
    pub(crate) data: *const f32,
    pub(crate) picture: Picture,
    pub(crate) channels: usize,
    pub(crate) upsample: bool,
}

// SAFETY: read only.
unsafe impl Send for Pixels {}
// SAFETY: read only.
unsafe impl Sync for Pixels {}

impl Pixels {
    /// The number of that index of all.
    #[inline(always)]
    pub(crate) unsafe fn number(self, index: usize) -> *const f32 {
        self.data.add(index)
    }

    /// The channels of the pixel at (`y`, `x`) of the (enlarged) picture `n`; none in the padding.
    #[inline(always)]
    pub(crate) unsafe fn at(self, n: usize, y: isize, x: isize) -> Option<*const f32> {
        let shift = u32::from(self.upsample);
        let Picture { height, width, .. } = self.picture;
        let inside = |at: isize, size: usize| at >= 0 && (at as usize) >> shift < size;
        (inside(y, height) && inside(x, width)).then(|| {
            let (y, x) = (y as usize >> shift, x as usize >> shift);
            self.data
                .add(((n * height + y) * width + x) * self.channels)
        })
    }
}
