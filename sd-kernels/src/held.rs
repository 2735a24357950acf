//! The layouts that a weight has in memory, and how a panel of it becomes one that is multiplied.

use crate::buffer::LINE;
use crate::products::{PAIRED, Unit};
use crate::simd::Vector;
use crate::weight::DType;

/// Layout of a weight's panels, each of two registers of columns (`width`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Held {
    /// `[depth][width]` numbers.
    Numbers(DType),
    /// `[depth/2][width][2]` bf16, zero beyond the depth up to 32 terms, as products of bf16 take
    /// them.
    Pairs,
    /// Blocks of 32 terms of a column, each a scale (f16) and whole numbers of 8 bits: q·d. As ggml's
    /// Q8_0, the columns side by side: `[depth/32]` of `[width]` scales and `[32][width]` bytes.
    Q8,
    /// Blocks of 32 terms of a column, each a scale (f16) and whole numbers of 4 bits: (q − 8)·d. As
    /// ggml's Q4_0, the columns side by side: `[depth/32]` of `[width]` scales and `[16][width]`
    /// bytes, in whose low bits the terms 0 to 15 are and in their high bits the others.
    Q4,
}

/// Terms of a quantised block.
pub(crate) const BLOCK: usize = 32;

impl Held {
    /// Bytes of a panel.
    pub(crate) fn panel(self, depth: usize, width: usize) -> usize {
        match self {
            Self::Numbers(dtype) => width * depth * dtype.bytes(),
            Self::Pairs => width * depth.next_multiple_of(PAIRED) * 2,
            Self::Q8 => depth.div_ceil(BLOCK) * width * (2 + BLOCK),
            Self::Q4 => depth.div_ceil(BLOCK) * width * (2 + BLOCK / 2),
        }
    }

    /// Bytes of a panel before the term `k`, where that is the first of a line, and for blocks of
    /// one.
    #[inline(always)]
    fn before(self, k: usize, width: usize) -> usize {
        match self {
            Self::Numbers(dtype) => k * width * dtype.bytes(),
            Self::Pairs => k * width * 2,
            Self::Q8 => k / BLOCK * width * (2 + BLOCK),
            Self::Q4 => k / BLOCK * width * (2 + BLOCK / 2),
        }
    }

    /// True for the layout that products of f32 (`true`) or of bf16 multiply as it is.
    #[inline(always)]
    pub(crate) fn is_multiplied(self, single: bool) -> bool {
        match single {
            true => self == Self::Numbers(DType::F32),
            false => self == Self::Pairs,
        }
    }

    /// One register of the term `k` of the panel at `from`, from the column `column` on.
    ///
    /// # Safety
    /// As for [`Vector`]. Not of [`Pairs`](Self::Pairs).
    #[inline(always)]
    pub(crate) unsafe fn load<V: Vector>(self, from: *const u8, k: usize, column: usize) -> V {
        let width = 2 * V::LANES;
        match self {
            Self::Numbers(dtype) => dtype.load::<V>(from, k * width + column),
            Self::Pairs => V::load_bf16(from.cast()),
            Self::Q8 | Self::Q4 => {
                let block = from.add(self.before(k, width));
                let scale = V::load_f16(block.cast::<u16>().add(column));
                self.quant::<V>(block, k % BLOCK, column).mul(scale)
            }
        }
    }

    /// One register of the whole numbers of a block.
    #[inline(always)]
    unsafe fn quant<V: Vector>(self, block: *const u8, k: usize, column: usize) -> V {
        let width = 2 * V::LANES;
        let quants = block.add(2 * width + column);
        let eight = V::splat(8.0);
        match self {
            Self::Q8 => V::load_i8(quants.add(k * width).cast()),
            _ if k < BLOCK / 2 => V::load_low(quants.add(k * width)).sub(eight),
            _ => V::load_high(quants.add((k - BLOCK / 2) * width)).sub(eight),
        }
    }

    /// The terms `first` to `end` of the panel at `from` as `U` multiplies them: where the layout is
    /// that already, where they lie, and else in `wide`.
    ///
    /// # Safety
    /// As for [`Vector`]; `first` is the first of a line, and `wide` has [`room`](Self::room).
    #[inline(always)]
    pub(crate) unsafe fn multiplied<V: Vector, U: Unit<V>>(
        self,
        from: *const u8,
        (first, end): (usize, usize),
        wide: *mut f32,
    ) -> *const f32 {
        let width = 2 * V::LANES;
        if self.is_multiplied(U::IS_SINGLE) {
            return from.add(self.before(first, width)).cast();
        }
        match self {
            // Plain numbers of which the layout is right.
            Self::Numbers(dtype) if U::IS_SINGLE => {
                let from = from.add(self.before(first, width));
                dtype.widen::<V>(from, (end - first) * width, wide);
            }
            Self::Q8 | Self::Q4 => {
                // A line of f32 may begin in the middle of a block.
                for k in (first..end).step_by(LINE) {
                    let (block, half) = (from.add(self.before(k, width)), k % BLOCK);
                    for column in [0, V::LANES] {
                        let scale = V::load_f16(block.cast::<u16>().add(column));
                        let term = |j: usize| self.quant::<V>(block, half + j, column).mul(scale);
                        if U::IS_SINGLE {
                            let to = wide.add((k - first) * width + column);
                            for j in 0..LINE {
                                term(j).store(to.add(j * width));
                            }
                        } else {
                            let to = wide.add((k - first) / 2 * width + column);
                            for j in (0..LINE).step_by(2) {
                                let to = to.add(j / 2 * width);
                                U::pair(term(j), term(j + 1), to);
                            }
                        }
                    }
                }
            }
            // Numbers that are multiplied as pairs.
            _ => {
                for k in (first..end.next_multiple_of(PAIRED)).step_by(2) {
                    for column in [0, V::LANES] {
                        let term = |k: usize| match k < end {
                            true => self.load::<V>(from, k, column),
                            false => V::zero(),
                        };
                        let to = wide.add((k - first) / 2 * width + column);
                        U::pair(term(k), term(k + 1), to);
                    }
                }
            }
        }
        wide.cast_const()
    }

    /// f32 of room that [`multiplied`](Self::multiplied) needs for so many terms.
    pub(crate) fn room(self, single: bool, terms: usize, width: usize) -> usize {
        match (self.is_multiplied(single), single) {
            (true, _) => 0,
            (false, true) => terms * width,
            (false, false) => terms.next_multiple_of(PAIRED) / 2 * width,
        }
    }
}
