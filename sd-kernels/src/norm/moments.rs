use crate::buffer::{LINE, Shared, with_scratch};
use crate::error::{Error, Result, check_len};
use crate::parallel::{chunk, for_each};
use crate::simd::{Isa, Kernel, Vector};

/// Mean and squared deviations of every channel over some pixels: what a normalisation must know
/// of a picture. Those of a picture's strips, merged, are those of the picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    pub(super) pixels: usize,
    pub(super) means: Vec<f64>,
    /// Σ(x − mean)².
    pub(super) squares: Vec<f64>,
}

impl Moments {
    /// Of `x`, `[pixels, channels]`. They do not depend on the number of threads.
    ///
    /// # Errors
    /// No channels, no pixels, or a part of one.
    pub fn of(isa: Isa, x: &[f32], channels: usize) -> Result<Self> {
        if channels == 0 || x.is_empty() || !x.len().is_multiple_of(channels) {
            return Err(Error::Dimension {
                name: "channels",
                value: channels,
                expected: "a divisor of the number of values, which is not 0",
            });
        }
        let mut all = moments(isa, x, 1, x.len() / channels, channels);
        Ok(all.swap_remove(0))
    }

    /// From each channel's mean and variance (the mean of the squared deviations) over `pixels`
    /// pixels, computed elsewhere.
    ///
    /// # Errors
    /// Another number of variances than of means.
    pub fn new(pixels: usize, means: Vec<f64>, variances: Vec<f64>) -> Result<Self> {
        check_len("the variances", variances.len(), &[means.len()])?;
        let squares = variances.iter().map(|v| v * pixels as f64).collect();
        Ok(Self {
            pixels,
            means,
            squares,
        })
    }

    /// The number of channels.
    pub fn channels(&self) -> usize {
        self.means.len()
    }

    /// Adds the pixels of `other` (Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise
    /// algorithm for computing sample variances", equation 2.1).
    ///
    /// # Errors
    /// Another number of channels.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        check_len("the moments", other.means.len(), &[self.means.len()])?;
        let (a, b) = (self.pixels as f64, other.pixels as f64);
        let total = a + b;
        for c in 0..self.means.len() {
            let distance = other.means[c] - self.means[c];
            self.squares[c] += other.squares[c] + distance * distance * a * b / total;
            self.means[c] += distance * b / total;
        }
        self.pixels += other.pixels;
        Ok(())
    }
}

impl Moments {
    /// Makes them those of x + shift.
    pub(super) fn shift(&mut self, shift: &[f32]) {
        for (mean, &shift) in self.means.iter_mut().zip(shift) {
            *mean += f64::from(shift);
        }
    }

    /// Mean and variance of each of `groups` groups of channels; their number divides that of the
    /// channels.
    pub fn groups(&self, groups: usize) -> impl Iterator<Item = (f64, f64)> {
        let (size, pixels) = (self.means.len() / groups.max(1), self.pixels as f64);
        (0..groups).map(move |group| {
            let members = || group * size..(group + 1) * size;
            let mean = self.means[members()].iter().sum::<f64>() / size as f64;
            // The squares within the channels, and those of the channels' means.
            let within: f64 = self.squares[members()].iter().sum();
            let between: f64 = (self.means[members()].iter())
                .map(|m| (m - mean).powi(2))
                .sum();
            (mean, (within / pixels + between) / size as f64)
        })
    }
}

/// The moments of each sample of `x`, `[n, pixels, channels]`.
pub(super) fn moments(
    isa: Isa,
    x: &[f32],
    n: usize,
    pixels: usize,
    channels: usize,
) -> Vec<Moments> {
    let parts = parts(pixels, channels);
    let row = channels.next_multiple_of(LINE);
    with_scratch(n * (2 * parts + 1) * row, |memory| {
        let sums = Shared(memory);
        // SAFETY: behind `[n][parts]` pairs of rows lie n pivots.
        let pivots = Shared(unsafe { memory.add(2 * n * parts * row) });
        for (sample, x) in x.chunks_exact(pixels * channels).enumerate() {
            // SAFETY: each sample has a row of its own.
            let to = unsafe { slice(pivots, sample * row, channels) };
            choose_pivots(x, to);
        }
        for_each(n * parts, |task| {
            let (from, end) = chunk(pixels, parts, task % parts);
            let sample = task / parts;
            let first = (sample * pixels + from) * channels;
            isa.run(Sums {
                x: &x[first..][..(end - from) * channels],
                // SAFETY: written above, and nobody writes them any more.
                pivots: unsafe { slice(pivots, sample * row, channels) },
                // SAFETY: each task has two rows of its own.
                to: unsafe { sums.get().add(2 * task * row) },
                row,
            });
        });
        let sample = |sample: usize| {
            // SAFETY: all of it lies within the scratch memory and was written above.
            let (pivots, sums) = unsafe {
                let sums = slice(sums, 2 * sample * parts * row, 2 * parts * row);
                (slice(pivots, sample * row, channels), sums)
            };
            finish(pixels, pivots, sums, row)
        };
        (0..n).map(sample).collect()
    })
}

/// Parts that the pixels are cut into: fixed by the sizes alone, so that the sums are taken in one
/// order on any number of threads.
pub(super) fn parts(pixels: usize, channels: usize) -> usize {
    (pixels * channels / TASK).clamp(1, pixels.div_ceil(ROWS))
}

/// Numbers of a task: a fraction of the second cache.
const TASK: usize = 1 << 15;

/// Pixels whose sums are taken together: the more, the less often the sums are stored and loaded;
/// the fewer, the fewer streams the prefetcher has to follow.
const ROWS: usize = 8;

/// # Safety
/// `memory` holds `from + len` f32, written before, and nobody else writes these meanwhile.
unsafe fn slice<'a>(memory: Shared, from: usize, len: usize) -> &'a mut [f32] {
    std::slice::from_raw_parts_mut(memory.get().add(from), len)
}

/// A number near the mean of each channel of a sample: the median of three pixels, as one alone may
/// be an outlier.
fn choose_pivots(x: &[f32], to: &mut [f32]) {
    let channels = to.len();
    let pixels = x.len() / channels;
    let [a, b, c] = [1, 3, 5].map(|sixth| &x[pixels * sixth / 6 * channels..][..channels]);
    for (i, to) in to.iter_mut().enumerate() {
        *to = a[i].min(b[i]).max(a[i].max(b[i]).min(c[i]));
    }
}

/// Moments from the parts' sums, `[parts][2][row]`.
fn finish(pixels: usize, pivots: &[f32], sums: &[f32], row: usize) -> Moments {
    let channels = pivots.len();
    let (mut means, mut squares) = (vec![0.0f64; channels], vec![0.0f64; channels]);
    for sums in sums.chunks_exact(2 * row) {
        let (sum, square) = sums.split_at(row);
        for (total, &x) in means.iter_mut().zip(sum) {
            *total += f64::from(x);
        }
        for (total, &x) in squares.iter_mut().zip(square) {
            *total += f64::from(x);
        }
    }
    for c in 0..channels {
        squares[c] -= means[c] * means[c] / pixels as f64;
        means[c] = f64::from(pivots[c]) + means[c] / pixels as f64;
    }
    Moments {
        pixels,
        means,
        squares,
    }
}

/// Per channel of some pixels: Σ(x − pivot) and Σ(x − pivot)². Sums of x itself would lose the
/// variance of a channel whose mean is large.
struct Sums<'a> {
    x: &'a [f32],
    pivots: &'a [f32],
    to: *mut f32,
    row: usize,
}

impl Kernel for Sums<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let channels = self.pivots.len();
        std::slice::from_raw_parts_mut(self.to, 2 * self.row).fill(0.0);
        let whole = self.x.len() / channels / ROWS;
        for i in 0..whole {
            self.rows::<V, ROWS>(self.x.as_ptr().add(i * ROWS * channels));
        }
        for pixel in self.x[whole * ROWS * channels..].chunks_exact(channels) {
            self.rows::<V, 1>(pixel.as_ptr());
        }
    }
}

impl Sums<'_> {
    /// Adds `R` pixels.
    #[inline(always)]
    unsafe fn rows<V: Vector, const R: usize>(&self, x: *const f32) {
        let channels = self.pivots.len();
        let whole = channels - channels % V::LANES;
        let mut c = 0;
        while c < whole {
            self.column::<V, R>(x, c, V::LANES);
            c += V::LANES;
        }
        if whole < channels {
            self.column::<V, R>(x, whole, channels - whole);
        }
    }

    #[inline(always)]
    unsafe fn column<V: Vector, const R: usize>(&self, x: *const f32, c: usize, count: usize) {
        let channels = self.pivots.len();
        let pivot = V::load_up_to(self.pivots.as_ptr().add(c), count);
        let (sum_at, square_at) = (self.to.add(c), self.to.add(self.row + c));
        let (mut sum, mut squares) = (V::zero(), V::zero());
        for r in 0..R {
            let d = V::load_up_to(x.add(r * channels + c), count).sub(pivot);
            sum = sum.add(d);
            squares = d.mul_add(d, squares);
        }
        sum.add(V::load_up_to(sum_at, count))
            .store_up_to(sum_at, count);
        let squares = squares.add(V::load_up_to(square_at, count));
        squares.store_up_to(square_at, count);
    }
}
