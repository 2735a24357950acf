use super::moments::Moments;
use crate::buffer::{Buffer, LINE, Shared};
use crate::simd::{Isa, Kernel, Vector};

/// Sums of pieces of a picture's rows, taken by whoever writes these while they are in a cache near by.
pub(crate) struct Segments {
    /// `[rows][parts][3][row]`: pivots, sums and sums of squares.
    sums: Shared,
    /// Where these lie.
    _memory: Buffer,
    rows: usize,
    /// Pixels of each piece of a row.
    pixels: Vec<usize>,
    channels: usize,
    /// f32 of a row of sums.
    row: usize,
}

impl Segments {
    /// Of `rows` rows, each in pieces of so many `pixels`.
    pub(crate) fn new(rows: usize, pixels: Vec<usize>, channels: usize) -> Self {
        let row = channels.next_multiple_of(LINE);
        let mut memory = Buffer::zeroed(rows * pixels.len() * 3 * row);
        Self {
            sums: Shared(memory.as_mut_ptr()),
            _memory: memory,
            rows,
            pixels,
            channels,
            row,
        }
    }

    /// Measures the channels from `first` to `end` of piece `part` of row `y`, whose first pixel's
    /// channels are at `x`, and the next one's `stride` further.
    ///
    /// # Safety
    /// So many channels of the piece's pixels are there, and nobody measures these at the same time.
    #[inline(always)]
    pub(crate) unsafe fn measure<V: Vector>(
        &self,
        (y, part): (usize, usize),
        x: *const f32,
        stride: usize,
        (first, end): (usize, usize),
    ) {
        const CHAINS: usize = 4;
        let pixels = self.pixels[part];
        let to = (self.sums.get()).add((y * self.pixels.len() + part) * 3 * self.row);
        let mut c = first;
        while c < end {
            let (count, x, to) = (V::LANES.min(end - c), x.add(c), to.add(c));
            // Near the mean: the median of three pixels, as one alone may be an outlier.
            let a = V::load_up_to(x.add(pixels / 6 * stride), count);
            let b = V::load_up_to(x.add(pixels / 2 * stride), count);
            let last = V::load_up_to(x.add(pixels * 5 / 6 * stride), count);
            let pivot = a.min(b).max(a.max(b).min(last));
            let (mut sums, mut squares) = ([V::zero(); CHAINS], [V::zero(); CHAINS]);
            let mut i = 0;
            while i < pixels {
                for j in 0..CHAINS.min(pixels - i) {
                    let d = V::load_up_to(x.add((i + j) * stride), count).sub(pivot);
                    sums[j] = sums[j].add(d);
                    squares[j] = d.mul_add(d, squares[j]);
                }
                i += CHAINS;
            }
            for j in 1..CHAINS {
                sums[0] = sums[0].add(sums[j]);
                squares[0] = squares[0].add(squares[j]);
            }
            pivot.store_up_to(to, count);
            sums[0].store_up_to(to.add(self.row), count);
            squares[0].store_up_to(to.add(2 * self.row), count);
            c += V::LANES;
        }
    }

    /// The moments of all pieces, which have all been measured: merged row by row, so that they do not
    /// depend on who measured what.
    pub(crate) fn moments(&self, isa: Isa) -> Moments {
        let (mut means, mut squares) = (vec![0.0; self.channels], vec![0.0; self.channels]);
        isa.run(Merge {
            segments: self,
            means: &mut means,
            squares: &mut squares,
        });
        Moments {
            pixels: self.rows * self.pixels.iter().sum::<usize>(),
            means,
            squares,
        }
    }
}

/// [`Moments::merge`] of one piece after the other.
struct Merge<'a> {
    segments: &'a Segments,
    means: &'a mut [f64],
    squares: &'a mut [f64],
}

impl Kernel for Merge<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Segments {
            sums,
            rows,
            pixels,
            channels,
            row,
            ..
        } = self.segments;
        let pieces = rows * pixels.len();
        let sums = std::slice::from_raw_parts(sums.get(), pieces * 3 * row);
        let mut before = 0.0;
        for (i, sums) in sums.chunks_exact(3 * row).enumerate() {
            let here = pixels[i % pixels.len()] as f64;
            let total = before + here;
            let (inverse, share, between) = (1.0 / here, here / total, before * here / total);
            let (pivots, sums) = sums.split_at(*row);
            let (sums, their) = sums.split_at(*row);
            for c in 0..*channels {
                let sum = f64::from(sums[c]);
                let mean = f64::from(pivots[c]) + sum * inverse;
                let distance = mean - self.means[c];
                let within = f64::from(their[c]) - sum * sum * inverse;
                self.squares[c] += within + distance * distance * between;
                self.means[c] += distance * share;
            }
            before = total;
        }
    }
}
