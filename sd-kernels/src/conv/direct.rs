//! Convolution as one matrix product whose left-hand rows are gathered while packing: no unrolled
//! copy of the input is ever in memory.

use super::geometry::{ConvShape, Pixels};
use crate::buffer::LINE;
use crate::gemm::Source;
use crate::products::{PAIRED, Unit};
use crate::simd::Vector;

/// The rows of the product: for each output pixel the `kernel`² input pixels under it, in the order
/// (row, column, channel).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patches {
    pub(crate) input: Pixels,
    pub(crate) shape: ConvShape,
    pub(crate) first_row: isize,
    pub(crate) out_height: usize,
    pub(crate) out_width: usize,
}

impl Patches {
    /// The input pixel under `tap` of an output pixel.
    #[inline(always)]
    unsafe fn pixel(self, row: usize, tap: usize) -> Option<*const f32> {
        let (n, rest) = (
            row / (self.out_height * self.out_width),
            row % (self.out_height * self.out_width),
        );
        let (y, x) = (rest / self.out_width, rest % self.out_width);
        let ConvShape {
            kernel,
            stride,
            pad_before,
            ..
        } = self.shape;
        let y = (y * stride + tap / kernel) as isize + self.first_row;
        let x = (x * stride + tap % kernel) as isize - pad_before as isize;
        self.input.at(n, y, x)
    }
}

impl Source for Patches {
    #[inline(always)]
    unsafe fn pack<V: Vector, U: Unit<V>>(
        self,
        (row, rows): (usize, usize),
        (line, lines): (usize, usize),
        to: *mut f32,
    ) {
        let channels = self.shape.inputs;
        let depth = self.shape.kernel * self.shape.kernel * channels;
        for r in 0..rows {
            if channels.is_multiple_of(U::TERMS) {
                let per_tap = channels / U::TERMS;
                let mut l = 0;
                while l < lines {
                    let (tap, from) = ((line + l) / per_tap, (line + l) % per_tap);
                    let count = (per_tap - from).min(lines - l);
                    let pixel = self.pixel(row + r, tap);
                    for i in 0..count {
                        let to = to.add(((l + i) * rows + r) * LINE);
                        match pixel {
                            Some(pixel) => {
                                U::line(pixel.add((from + i) * U::TERMS), U::TERMS, to);
                            }
                            None => U::line(to, 0, to),
                        }
                    }
                    l += count;
                }
            } else {
                for l in 0..lines {
                    let mut values = [0.0; PAIRED];
                    let first = (line + l) * U::TERMS;
                    let count = (depth - first).min(U::TERMS);
                    for (i, value) in values.iter_mut().enumerate().take(count) {
                        let k = first + i;
                        let pixel = self.pixel(row + r, k / channels);
                        *value = pixel.map_or(0.0, |pixel| *pixel.add(k % channels));
                    }
                    U::line(values.as_ptr(), count, to.add((l * rows + r) * LINE));
                }
            }
        }
    }
}
