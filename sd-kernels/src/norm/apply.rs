use crate::buffer::{Buffer, LINE, Shared};
use crate::gemm::Activation;
use crate::norm::moments::parts;
use crate::parallel::{chunk, for_each};
use crate::simd::{Isa, Kernel, Vector};

/// What a normalisation does to the pixels of a picture: three rows, each as long as the channels
/// rounded up to whole lines, centre, factor and summand of every channel, and a function behind them.
pub(crate) struct Factors {
    rows: Buffer,
    channels: usize,
    activation: Activation,
}

impl Factors {
    /// `each` gives centre, factor and summand of a channel.
    pub(super) fn new(
        channels: usize,
        activation: Activation,
        each: impl Fn(usize) -> [f32; 3],
    ) -> Self {
        let row = channels.next_multiple_of(LINE);
        let mut rows = Buffer::zeroed(3 * row);
        let slice = rows.as_mut_slice();
        for c in 0..channels {
            for (i, x) in each(c).into_iter().enumerate() {
                slice[i * row + c] = x;
            }
        }
        Self {
            rows,
            channels,
            activation,
        }
    }

    /// Writes the normalised `pixels` pixels at `x` to `out`, which may be `x` itself.
    ///
    /// # Safety
    /// Both hold `[pixels, channels]`, and nobody else touches `out` meanwhile.
    pub(super) unsafe fn apply(&self, isa: Isa, x: *const f32, pixels: usize, out: *mut f32) {
        let channels = self.channels;
        let parts = parts(pixels, channels);
        let (x, to) = (Shared(x.cast_mut()), Shared(out));
        for_each(parts, |task| {
            let (from, end) = chunk(pixels, parts, task);
            // SAFETY: within both, and each task writes pixels of its own.
            unsafe {
                let (x, out) = (x.get().add(from * channels), to.get().add(from * channels));
                self.apply_here(isa, x, end - from, out);
            }
        });
    }

    /// [`apply`](Self::apply) on this thread alone.
    ///
    /// # Safety
    /// As there.
    pub(crate) unsafe fn apply_here(&self, isa: Isa, x: *const f32, pixels: usize, out: *mut f32) {
        isa.run(Apply {
            x,
            pixels,
            channels: self.channels,
            factors: self.rows.as_ptr(),
            row: self.channels.next_multiple_of(LINE),
            activation: self.activation,
            out,
        });
    }
}

/// activation((x − centre) · factor + summand), per channel: x · factor alone would round off what
/// is left of a large x.
struct Apply {
    x: *const f32,
    pixels: usize,
    channels: usize,
    factors: *const f32,
    row: usize,
    activation: Activation,
    out: *mut f32,
}

impl Kernel for Apply {
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

impl Apply {
    #[inline(always)]
    unsafe fn each<V: Vector>(&self, activation: Activation) {
        let whole = self.channels - self.channels % V::LANES;
        for i in 0..self.pixels {
            let (pixel, out) = (
                self.x.add(i * self.channels),
                self.out.add(i * self.channels),
            );
            let mut c = 0;
            while c < whole {
                self.column::<V>(activation, pixel, c, V::LANES, out);
                c += V::LANES;
            }
            if whole < self.channels {
                let count = self.channels - whole;
                self.column::<V>(activation, pixel, whole, count, out);
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
