use crate::buffer::{LINE, Shared, with_scratch};
use crate::error::{Error, Result, check_len};
use crate::gemm::Activation;
use crate::parallel::{for_each, part};
use crate::simd::{Isa, Kernel, Vector};

/// The parameters of a group normalisation (Wu & He 2018, arXiv:1803.08494).
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm<'a> {
    /// One factor per channel.
    pub weight: &'a [f32],
    /// One summand per channel.
    pub bias: &'a [f32],
    /// Number of groups; divides the number of channels.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// Applied to the result: SiLU in the networks' residual blocks.
    pub activation: Activation,
}

/// Normalises each group of channels over all pixels of a picture: `x` and `out` are
/// `[n, pixels, channels]`.
///
/// The result does not depend on the number of threads, and keeps its precision wherever the mean
/// lies.
///
/// # Errors
/// Where a slice's length does not fit, or the groups do not divide the channels.
pub fn group_norm(
    isa: Isa,
    x: &[f32],
    n: usize,
    pixels: usize,
    norm: GroupNorm<'_>,
    out: &mut [f32],
) -> Result<()> {
    normalise(isa, x, n, pixels, None, norm, out)
}

/// [`group_norm`] of `x + shift`, where `shift`, `[1 or n, channels]`, is added at every pixel: a
/// residual block's time embedding, at no cost.
///
/// # Errors
/// As [`group_norm`].
pub fn group_norm_shifted(
    isa: Isa,
    x: &[f32],
    n: usize,
    pixels: usize,
    shift: &[f32],
    norm: GroupNorm<'_>,
    out: &mut [f32],
) -> Result<()> {
    normalise(isa, x, n, pixels, Some(shift), norm, out)
}

fn normalise(
    isa: Isa,
    x: &[f32],
    n: usize,
    pixels: usize,
    shift: Option<&[f32]>,
    norm: GroupNorm<'_>,
    out: &mut [f32],
) -> Result<()> {
    let channels = norm.weight.len();
    check_len("the bias", norm.bias.len(), &[channels])?;
    check_len("the input", x.len(), &[n, pixels, channels])?;
    check_len("the output", out.len(), &[n, pixels, channels])?;
    if let Some(shift) = shift.filter(|shift| shift.len() != channels) {
        check_len("the shift", shift.len(), &[n, channels])?;
    }
    if norm.groups == 0 || !channels.is_multiple_of(norm.groups) {
        return Err(Error::Dimension {
            name: "groups",
            value: norm.groups,
            expected: "a divisor of the number of channels",
        });
    }
    if x.is_empty() {
        return Ok(());
    }
    let shift = |sample: usize| match shift {
        Some(shift) if shift.len() == channels => Some(shift),
        shift => shift.map(|shift| &shift[sample * channels..][..channels]),
    };
    // Fixed by the sizes alone, so that the sums are taken in one order on any number of threads.
    let parts = (pixels * channels / TASK).clamp(1, pixels.div_ceil(ROWS));
    let row = channels.next_multiple_of(LINE);
    with_scratch(n * (2 * parts + 4) * row, |memory| {
        let sums = Shared(memory);
        // SAFETY: behind `[n][parts]` pairs of rows lie n pivots and n times three rows.
        let pivots = Shared(unsafe { memory.add(2 * n * parts * row) });
        // SAFETY: as above.
        let factors = Shared(unsafe { pivots.get().add(n * row) });
        for (sample, x) in x.chunks_exact(pixels * channels).enumerate() {
            // SAFETY: each sample has a row of its own.
            let to = unsafe { slice(pivots, sample * row, channels) };
            choose_pivots(x, to);
        }
        for_each(n * parts, |task| {
            let (from, end) = part(pixels, parts, task % parts);
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
        for sample in 0..n {
            // SAFETY: all of it lies within the scratch memory and was written above.
            let statistics = Statistics {
                pixels,
                pivots: unsafe { slice(pivots, sample * row, channels) },
                sums: unsafe { slice(sums, 2 * sample * parts * row, 2 * parts * row) },
                row,
            };
            // SAFETY: each sample has three rows of its own.
            let to = unsafe { slice(factors, 3 * sample * row, 3 * row) };
            statistics.finish(shift(sample), &norm, to);
        }
        let to = Shared(out.as_mut_ptr());
        for_each(n * parts, |task| {
            let (from, end) = part(pixels, parts, task % parts);
            let sample = task / parts;
            let first = (sample * pixels + from) * channels;
            isa.run(Apply {
                x: &x[first..][..(end - from) * channels],
                channels,
                // SAFETY: the rows written by `finish`.
                factors: unsafe { factors.get().add(3 * sample * row) },
                row,
                activation: norm.activation,
                // SAFETY: within `out`; each task writes pixels of its own.
                out: unsafe { to.get().add(first) },
            });
        });
    });
    Ok(())
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

/// What the tasks found out about one sample.
struct Statistics<'a> {
    pixels: usize,
    pivots: &'a [f32],
    /// `[parts][2][row]`.
    sums: &'a [f32],
    row: usize,
}

impl Statistics<'_> {
    /// Three rows of what [`Apply`] needs for each channel: centre, factor and summand.
    fn finish(&self, shift: Option<&[f32]>, norm: &GroupNorm<'_>, to: &mut [f32]) {
        let channels = self.pivots.len();
        let (mut means, mut squares) = (vec![0.0f64; channels], vec![0.0f64; channels]);
        for sums in self.sums.chunks_exact(2 * self.row) {
            let (sum, square) = sums.split_at(self.row);
            for (total, &x) in means.iter_mut().zip(sum) {
                *total += f64::from(x);
            }
            for (total, &x) in squares.iter_mut().zip(square) {
                *total += f64::from(x);
            }
        }
        let pixels = self.pixels as f64;
        let shift = |c: usize| shift.map_or(0.0, |shift| f64::from(shift[c]));
        for c in 0..channels {
            squares[c] -= means[c] * means[c] / pixels;
            means[c] = f64::from(self.pivots[c]) + shift(c) + means[c] / pixels;
        }
        let (centres, rest) = to.split_at_mut(self.row);
        let (factors, summands) = rest.split_at_mut(self.row);
        let size = channels / norm.groups;
        for first in (0..channels).step_by(size) {
            let group = first..first + size;
            let mean = means[group.clone()].iter().sum::<f64>() / size as f64;
            // The squares within the channels, and those of the channels' means.
            let within: f64 = squares[group.clone()].iter().sum();
            let between: f64 = means[group.clone()]
                .iter()
                .map(|m| (m - mean).powi(2))
                .sum();
            let variance = (within / pixels + between) / size as f64;
            let deviation = (variance + f64::from(norm.epsilon)).sqrt();
            for c in group {
                let (factor, centre) = (f64::from(norm.weight[c]) / deviation, mean - shift(c));
                centres[c] = centre as f32;
                factors[c] = factor as f32;
                let rounding = f64::from(centres[c]) - centre;
                summands[c] = (f64::from(norm.bias[c]) + rounding * factor) as f32;
            }
        }
    }
}

/// activation((x − centre) · factor + summand), per channel: x · factor alone would round off what
/// is left of a large x.
struct Apply<'a> {
    x: &'a [f32],
    channels: usize,
    factors: *const f32,
    row: usize,
    activation: Activation,
    out: *mut f32,
}

impl Kernel for Apply<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // Outside the loops, so that each has one function in it.
        match self.activation {
            Activation::None => self.each::<V>(Activation::None),
            Activation::Silu => self.each::<V>(Activation::Silu),
            Activation::Gelu => self.each::<V>(Activation::Gelu),
            Activation::QuickGelu => self.each::<V>(Activation::QuickGelu),
        }
    }
}

impl Apply<'_> {
    #[inline(always)]
    unsafe fn each<V: Vector>(&self, activation: Activation) {
        let whole = self.channels - self.channels % V::LANES;
        for (i, pixel) in self.x.chunks_exact(self.channels).enumerate() {
            let out = self.out.add(i * self.channels);
            let mut c = 0;
            while c < whole {
                self.column::<V>(activation, pixel.as_ptr(), c, V::LANES, out);
                c += V::LANES;
            }
            if whole < self.channels {
                let count = self.channels - whole;
                self.column::<V>(activation, pixel.as_ptr(), whole, count, out);
            }
        }
    }

    #[inline(always)]
    unsafe fn column<V: Vector>(
        &self,
        activation: Activation,
        x: *const f32,
        c: usize,
        count: usize,
        out: *mut f32,
    ) {
        let centre = V::load_up_to(self.factors.add(c), count);
        let factor = V::load_up_to(self.factors.add(self.row + c), count);
        let summand = V::load_up_to(self.factors.add(2 * self.row + c), count);
        let x = V::load_up_to(x.add(c), count).sub(centre);
        let y = activation.apply(x.mul_add(factor, summand));
        y.store_up_to(out.add(c), count);
    }
}
