//! Between PyTorch's layout of a picture, a plane per channel, and the kernels', channels-last.

use crate::buffer::Shared;
use crate::error::{Result, check_len};
use crate::parallel::for_each;
use crate::simd::{Isa, Kernel, Vector};

/// `x` `[n, channels, pixels]` to `out` `[n, pixels, channels]`.
///
/// # Errors
/// A slice whose length does not fit.
pub fn to_channels_last(
    isa: Isa,
    x: &[f32],
    n: usize,
    channels: usize,
    pixels: usize,
    out: &mut [f32],
) -> Result<()> {
    check_len("the input", x.len(), &[n, channels, pixels])?;
    check_len("the output", out.len(), &[n, pixels, channels])?;
    let to = Shared(out.as_mut_ptr());
    for_each_run(n, channels, pixels, |sample, first, count| {
        let sample = sample * channels * pixels;
        isa.run(ToLast(Run {
            // SAFETY: the run's first pixel in the first plane; every plane has `count` more.
            from: unsafe { x.as_ptr().add(sample + first) },
            from_stride: pixels,
            // SAFETY: within `out`; each run writes pixels of its own.
            to: unsafe { to.get().add(sample + first * channels) },
            to_stride: channels,
            channels,
            count,
        }));
    });
    Ok(())
}

/// `x` `[n, pixels, channels]` to `out` `[n, channels, pixels]`.
///
/// # Errors
/// A slice whose length does not fit.
pub fn to_channels_first(
    isa: Isa,
    x: &[f32],
    n: usize,
    channels: usize,
    pixels: usize,
    out: &mut [f32],
) -> Result<()> {
    check_len("the input", x.len(), &[n, pixels, channels])?;
    check_len("the output", out.len(), &[n, channels, pixels])?;
    let to = Shared(out.as_mut_ptr());
    for_each_run(n, channels, pixels, |sample, first, count| {
        let sample = sample * channels * pixels;
        isa.run(ToFirst(Run {
            // SAFETY: the run's first pixel; `count` pixels follow.
            from: unsafe { x.as_ptr().add(sample + first * channels) },
            from_stride: channels,
            // SAFETY: within `out`; each run writes a part of its own of every plane.
            to: unsafe { to.get().add(sample + first) },
            to_stride: pixels,
            channels,
            count,
        }));
    });
    Ok(())
}

/// Fewest pixels of a run: four cache lines of a plane, so that a line is moved whole, and few
/// enough that the planes' lines, often a power of two apart, all find room in the first cache.
const PIXELS: usize = 64;

/// `f(sample, first pixel, number of pixels)` for all pixels, in runs of some 16 Ki numbers.
fn for_each_run(
    n: usize,
    channels: usize,
    pixels: usize,
    f: impl Fn(usize, usize, usize) + Sync + Send,
) {
    if n == 0 || channels == 0 || pixels == 0 {
        return;
    }
    let run = ((1 << 14) / channels).max(1).next_multiple_of(PIXELS);
    let runs = pixels.div_ceil(run);
    for_each(n * runs, |task| {
        let first = task % runs * run;
        f(task / runs, first, run.min(pixels - first));
    });
}

/// `count` pixels of all channels; strides in f32, from plane to plane or from pixel to pixel.
struct Run {
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
    channels: usize,
    count: usize,
}

impl Run {
    /// Moves all numbers, `LANES` × `LANES` where a block is whole. `channel` and `pixel` are what
    /// one step of either adds to the place read and to the place written.
    #[inline(always)]
    unsafe fn go<V: Vector>(&self, channel: (usize, usize), pixel: (usize, usize)) {
        let whole = |size: usize| size - size % V::LANES;
        let place = |c: usize, p: usize| {
            let from = self.from.add(c * channel.0 + p * pixel.0);
            (from, self.to.add(c * channel.1 + p * pixel.1))
        };
        let single = |c: usize, p: usize| {
            let (from, to) = place(c, p);
            *to = *from;
        };
        // Pixels innermost: the planes are far apart, and their lines are finished one by one.
        for c in (0..whole(self.channels)).step_by(V::LANES) {
            for p in (0..whole(self.count)).step_by(V::LANES) {
                let (from, to) = place(c, p);
                V::transpose(from, self.from_stride, to, self.to_stride);
            }
            for c in c..c + V::LANES {
                (whole(self.count)..self.count).for_each(|p| single(c, p));
            }
        }
        for c in whole(self.channels)..self.channels {
            (0..self.count).for_each(|p| single(c, p));
        }
    }
}

struct ToLast(Run);

impl Kernel for ToLast {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        self.0
            .go::<V>((self.0.from_stride, 1), (1, self.0.to_stride));
    }
}

struct ToFirst(Run);

impl Kernel for ToFirst {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        self.0
            .go::<V>((1, self.0.to_stride), (self.0.from_stride, 1));
    }
}
