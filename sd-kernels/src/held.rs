//! The layouts that a weight has in memory, and how a panel of it becomes one that is multiplied.

use crate::blocks::{Expand, KeptBlocks};
use crate::products::{PAIRED, Products, Unit};
use crate::simd::{Isa, Vector};
use crate::weight::DType;

/// Layout of a weight's panels, each of two registers of columns (`width`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Held {
    /// `[depth][width]` numbers.
    Numbers(DType),
    /// `[depth/2][width][2]` bf16, zero beyond the depth up to 32 terms, as products of bf16 take
    /// them.
    Pairs,
    /// ggml's blocks.
    Blocks(KeptBlocks),
}

impl Held {
    /// Bytes of a panel.
    pub(crate) fn panel(self, depth: usize, width: usize) -> usize {
        match self {
            Self::Numbers(dtype) => width * depth * dtype.bytes(),
            Self::Pairs => width * depth.next_multiple_of(PAIRED) * 2,
            Self::Blocks(blocks) => depth.div_ceil(blocks.span()) * width * blocks.piece(),
        }
    }

    /// Bytes that so many terms of a panel take, where these are whole lines.
    #[inline(always)]
    pub(crate) fn terms(self, count: usize, width: usize) -> usize {
        match self {
            Self::Numbers(dtype) => count * width * dtype.bytes(),
            Self::Pairs => count * width * 2,
            Self::Blocks(blocks) => count * width * blocks.piece() / blocks.span(),
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

    /// The terms `first` to `end` of the panel at `from` as `U` multiplies them: where the layout is
    /// that already, where they lie, and else in `wide`. `U` is that of `unit`.
    ///
    /// # Safety
    /// As for [`Vector`]; `first` is the first of a line, and `wide` has [`room`](Self::room).
    #[inline(always)]
    pub(crate) unsafe fn multiplied<V: Vector, U: Unit<V>>(
        self,
        from: *const u8,
        (first, end): (usize, usize),
        wide: *mut f32,
        unit: (Isa, Products),
    ) -> *const f32 {
        let width = 2 * V::LANES;
        if self.is_multiplied(U::IS_SINGLE) {
            return from.add(self.terms(first, width)).cast();
        }
        match self {
            // Plain numbers of which the layout is right.
            Self::Numbers(dtype) if U::IS_SINGLE => {
                let from = from.add(self.terms(first, width));
                dtype.widen::<V>(from, (end - first) * width, wide);
            }
            Self::Blocks(blocks) => {
                let expand = Expand {
                    blocks,
                    from,
                    terms: (first, end),
                    to: wide,
                };
                // A function of its own, once for all that multiplies.
                unit.1.run(unit.0, expand);
            }
            // Numbers that are multiplied as pairs.
            Self::Numbers(dtype) => {
                for k in (first..end.next_multiple_of(PAIRED)).step_by(2) {
                    for column in [0, V::LANES] {
                        let term = |k: usize| match k < end {
                            true => dtype.load::<V>(from, k * width + column),
                            false => V::zero(),
                        };
                        let to = wide.add((k - first) / 2 * width + column);
                        U::pair(term(k), term(k + 1), to);
                    }
                }
            }
            Self::Pairs => debug_assert!(false, "pairs are not multiplied as numbers"),
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
