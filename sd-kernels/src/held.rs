//! The layouts that a weight has in memory, and how a panel of it becomes one that is multiplied.

use crate::blocks::{Expand, KeptBlocks};
use crate::products::{LINE_TERMS, PAIRED, Products, Unit};
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
    /// A scale for each column in f32, then `[depth/4][width][4]` bytes with a sign, zero beyond the
    /// depth up to 64 terms, as products of int8 take them.
    Int8,
    /// ggml's blocks.
    Blocks(KeptBlocks),
}

impl Held {
    /// Bytes of a panel.
    pub(crate) fn panel(self, depth: usize, width: usize) -> usize {
        match self {
            Self::Numbers(dtype) => width * depth * dtype.bytes(),
            Self::Pairs => width * depth.next_multiple_of(PAIRED) * 2,
            Self::Int8 => self.head(width) + width * depth.next_multiple_of(LINE_TERMS),
            Self::Blocks(blocks) => depth.div_ceil(blocks.span()) * width * blocks.piece(),
        }
    }

    /// Bytes of a panel before its first term.
    #[inline(always)]
    pub(crate) fn head(self, width: usize) -> usize {
        match self {
            Self::Int8 => width * size_of::<f32>(),
            _ => 0,
        }
    }

    /// Bytes that so many terms of a panel take, where these are whole lines.
    #[inline(always)]
    pub(crate) fn terms(self, count: usize, width: usize) -> usize {
        match self {
            Self::Numbers(dtype) => count * width * dtype.bytes(),
            Self::Pairs => count * width * 2,
            Self::Int8 => count * width,
            Self::Blocks(blocks) => count * width * blocks.piece() / blocks.span(),
        }
    }

    /// True for the layout that products of f32 (`true`) or others multiply as it is. Int8 is never
    /// multiplied otherwise.
    #[inline(always)]
    pub(crate) fn is_multiplied(self, single: bool) -> bool {
        match single {
            true => self == Self::Numbers(DType::F32),
            false => matches!(self, Self::Pairs | Self::Int8),
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
            return from.add(self.head(width) + self.terms(first, width)).cast();
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
            Self::Pairs | Self::Int8 => debug_assert!(false, "{self:?} is not multiplied as f32"),
        }
        wide.cast_const()
    }

    /// f32 of room that [`multiplied`](Self::multiplied) needs for so many terms, or packing a row of
    /// them that is multiplied with int8.
    pub(crate) fn room(self, single: bool, terms: usize, width: usize) -> usize {
        match (self.is_multiplied(single), single) {
            _ if self == Self::Int8 => terms,
            (true, _) => 0,
            (false, true) => terms * width,
            (false, false) => terms.next_multiple_of(PAIRED) / 2 * width,
        }
    }
}
