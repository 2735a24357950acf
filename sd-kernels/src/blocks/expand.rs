//! Blocks in a panel: their columns side by side, made f32 a register of columns at a time.
//!
//! A panel of `width` columns is pieces of `[halves][width]` f16 and `[span/32]` parts. A part
//! is `[scales][width]` bytes, then the low bits of 32 terms and then their high ones: planes of `b`
//! bits are `[4·b][width]` bytes, in which the term `t` is in byte `t mod 4b`, the first terms in the
//! lowest bits.

use super::{Blocks, KeptBlocks, PART, Parts, Scales};
use crate::buffer::LINE;
use crate::gemm::Order;
use crate::products::{Unit, UnitKernel};
use crate::simd::Vector;

/// Terms whose bits have the same place in their bytes.
const GROUP: usize = 4;

impl Blocks {
    /// Puts `parts`' numbers from the one of number `from` on, `span` of them, into a column of a
    /// panel, of which `to` is the place of so many terms.
    pub(crate) fn put(
        self,
        parts: &Parts,
        (from, span): (usize, usize),
        column: usize,
        width: usize,
        to: &mut [u8],
    ) {
        let (halves, rest) = to.split_at_mut(2 * self.halves() * width);
        for (half, to) in parts.halves.iter().zip(halves.chunks_exact_mut(2 * width)) {
            to[2 * column..2 * column + 2].copy_from_slice(half);
        }
        let (low, high) = self.bits();
        let places = rest.chunks_exact_mut(self.part_bytes() * width);
        let parts = (from / PART..(from + span) / PART).map(|part| {
            let quants = &parts.quants[part * PART..(part + 1) * PART];
            (&parts.scales[part * 2..part * 2 + 2], quants)
        });
        for ((scales, quants), to) in parts.zip(places) {
            let mut rows = to.chunks_exact_mut(width);
            for (scale, row) in scales[..self.scale_bytes()].iter().zip(&mut rows) {
                row[column] = *scale;
            }
            let planes = [(low, 0), (high, low)].into_iter();
            for (bits, shift) in planes.filter(|(bits, _)| *bits > 0) {
                let mut plane = [0; PART];
                for (t, q) in quants.iter().enumerate() {
                    let own = (u32::from(*q) >> shift & ((1 << bits) - 1)) as u8;
                    plane[t % (4 * bits)] |= own << (t / (4 * bits) * bits);
                }
                for (byte, row) in plane[..4 * bits].iter().zip(&mut rows) {
                    row[column] = *byte;
                }
            }
        }
    }

    /// Scale and offset of the terms around `k` for the register of columns from `column` on; `at` is
    /// the piece and `part` the part in which the term is.
    #[inline(always)]
    unsafe fn scale<V: Vector>(
        self,
        (at, part): (*const u8, *const u8),
        k: usize,
        column: usize,
    ) -> (V, V) {
        let width = 2 * V::LANES;
        let d = V::load_f16(at.cast::<u16>().add(column));
        let m = match self.has_offset() {
            true => V::load_f16(at.cast::<u16>().add(width + column)),
            false => V::zero(),
        };
        // The byte of a group of 16 terms.
        let own = part.add(k % PART / 16 * width + column);
        match self.scales() {
            Scales::Block => (d, m),
            Scales::Signed => (d.mul(V::load_i8(own.cast())), m),
            Scales::Pairs => {
                let both = part.add(column);
                let [scale, offset] = [both, both.add(width)];
                let all = |from| V::load_masked(from, 255);
                (d.mul(all(scale)), m.mul(all(offset)))
            }
            Scales::Nibbles => {
                let scale = V::load_masked(own, 15);
                let offset = V::load_masked(own, 240).mul(V::splat(1.0 / 16.0));
                (d.mul(scale), m.mul(offset))
            }
        }
    }

    /// The planes of four terms from the term `k` on, whose part has its planes at `planes`.
    #[inline(always)]
    unsafe fn four<V: Vector>(self, planes: *const u8, k: usize) -> Four<V> {
        let (low, high) = self.bits();
        let above = planes.add(low * PART / 8 * 2 * V::LANES);
        Four {
            low: Plane::new(planes, low, k % PART, 1.0),
            high: (high > 0).then(|| Plane::new(above, high, k % PART, (1 << low) as f32)),
            // Beside 0, which is not changed by it, a zero with a sign is none.
            zero: V::splat(-self.zero()),
            signed: low == 8,
        }
    }

    /// A number of the whole number `q` less its zero.
    #[inline(always)]
    unsafe fn number<V: Vector>(self, q: V, (scale, offset): (V, V)) -> V {
        match self.has_offset() {
            // Rounded twice, as ggml's.
            true => q.mul(scale).add(offset),
            false => q.mul(scale),
        }
    }
}

/// Bits of four terms of a part.
struct Plane<V> {
    from: *const u8,
    mask: u32,
    /// What makes a whole number of the masked byte.
    factor: V,
}

impl<V: Vector> Plane<V> {
    /// Of the terms from `t` on; a plane's lowest bit counts `weight`.
    #[inline(always)]
    unsafe fn new(plane: *const u8, bits: usize, t: usize, weight: f32) -> Self {
        let (byte, shift) = (t % (4 * bits), t / (4 * bits) * bits);
        Self {
            from: plane.add(byte * 2 * V::LANES),
            mask: ((1 << bits) - 1) << shift,
            factor: V::splat(weight / (1 << shift) as f32),
        }
    }

    /// `sum` and what the bits of term `i` count. All of these are whole numbers.
    #[inline(always)]
    unsafe fn add(&self, i: usize, column: usize, sum: V) -> V {
        let from = self.from.add(i * 2 * V::LANES + column);
        V::load_masked(from, self.mask).mul_add(self.factor, sum)
    }
}

/// Whole numbers of four terms.
struct Four<V> {
    low: Plane<V>,
    high: Option<Plane<V>>,
    zero: V,
    signed: bool,
}

impl<V: Vector> Four<V> {
    /// Those of term `i`, less their zero.
    #[inline(always)]
    unsafe fn get(&self, i: usize, column: usize) -> V {
        if self.signed {
            return V::load_i8(self.low.from.add(i * 2 * V::LANES + column).cast());
        }
        let q = self.low.add(i, column, self.zero);
        match &self.high {
            Some(high) => high.add(i, column, q),
            None => q,
        }
    }
}

/// Terms of a panel of blocks on their way into the cache, as a unit multiplies them.
pub(crate) struct Expand {
    pub(crate) blocks: KeptBlocks,
    /// The panel.
    pub(crate) from: *const u8,
    /// The first, that of a line, and the end, which is that of one.
    pub(crate) terms: (usize, usize),
    pub(crate) to: *mut f32,
}

impl UnitKernel for Expand {
    #[inline(always)]
    unsafe fn run<V: Vector, U: Unit<V>>(self) {
        // What a kind of blocks asks for is then known where the code is made.
        macro_rules! of_each {
            ($($kind:ident)*) => {
                match (self.blocks.blocks, self.blocks.order) {
                    $(
                        (Blocks::$kind, Order::AsStored) => self.lines::<V, U>(Blocks::$kind),
                        (Blocks::$kind, Order::TapsFirst { inputs, taps }) => {
                            self.taps::<V, U>(Blocks::$kind, inputs, taps);
                        }
                    )*
                }
            };
        }
        of_each!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2K Q3K Q4K Q5K Q6K);
    }
}

impl Expand {
    /// Terms that lie in the order in which they are multiplied.
    #[inline(always)]
    unsafe fn lines<V: Vector, U: Unit<V>>(self, blocks: Blocks) {
        let width = 2 * V::LANES;
        let (first, end) = self.terms;
        // A line of f32 may begin in the middle of a part.
        for line in (first..end).step_by(LINE) {
            let [at, part] = self.place(blocks, line, width);
            let planes = part.add(blocks.scale_bytes() * width);
            let scales = [
                blocks.scale::<V>((at, part), line, 0),
                blocks.scale::<V>((at, part), line, V::LANES),
            ];
            for k in (line..line + LINE).step_by(GROUP) {
                let four = blocks.four::<V>(planes, k);
                for (scale, column) in scales.into_iter().zip([0, V::LANES]) {
                    let mut terms = [V::zero(); GROUP];
                    for (i, x) in terms.iter_mut().enumerate() {
                        *x = blocks.number(four.get(i, column), scale);
                    }
                    self.put::<V, U>(k, column, [terms[0], terms[1]]);
                    self.put::<V, U>(k + 2, column, [terms[2], terms[3]]);
                }
            }
        }
    }

    /// Terms of a convolution: those of an input's taps lie side by side, those of a tap's inputs are
    /// multiplied one after the other.
    #[inline(always)]
    unsafe fn taps<V: Vector, U: Unit<V>>(self, blocks: Blocks, inputs: usize, taps: usize) {
        let (first, end) = self.terms;
        for k in (first..end).step_by(2) {
            let stored = k % inputs * taps + k / inputs;
            for column in [0, V::LANES] {
                let one = self.term::<V>(blocks, stored, column);
                let two = self.term::<V>(blocks, stored + taps, column);
                self.put::<V, U>(k, column, [one, two]);
            }
        }
    }

    /// One register of the term stored at `k`.
    #[inline(always)]
    unsafe fn term<V: Vector>(&self, blocks: Blocks, k: usize, column: usize) -> V {
        let width = 2 * V::LANES;
        let [at, part] = self.place(blocks, k, width);
        let scale = blocks.scale::<V>((at, part), k, column);
        let planes = part.add(blocks.scale_bytes() * width);
        let four = blocks.four::<V>(planes, k / GROUP * GROUP);
        blocks.number(four.get(k % GROUP, column), scale)
    }

    /// The places of the piece and of the part in which the term stored at `k` is.
    #[inline(always)]
    unsafe fn place(&self, blocks: Blocks, k: usize, width: usize) -> [*const u8; 2] {
        // A power of two.
        let span = self.blocks.span;
        let (piece, within) = (k >> span.trailing_zeros(), k & (span - 1));
        let at = self.from.add(piece * self.blocks.piece() * width);
        let part = within / PART * blocks.part_bytes() * width;
        [at, at.add(2 * blocks.halves() * width + part)]
    }

    /// Writes one register of the terms `k` and `k + 1`.
    #[inline(always)]
    unsafe fn put<V: Vector, U: Unit<V>>(&self, k: usize, column: usize, terms: [V; 2]) {
        let (k, width) = (k - self.terms.0, 2 * V::LANES);
        let [one, two] = terms;
        if U::IS_SINGLE {
            one.store(self.to.add(k * width + column));
            two.store(self.to.add((k + 1) * width + column));
        } else {
            U::pair(one, two, self.to.add(k / 2 * width + column));
        }
    }
}
