use super::{AttentionShape, Call};
use crate::buffer::LINE;
use crate::gemm::{Rows, Source, Tiles, copy_line};
use crate::products::{Products, Unit, UnitKernel};
use crate::simd::{Isa, Vector};

/// Layout of a head's keys and values in memory: block by block of keys, the keys as left-hand rows
/// of the scores' product, then the values transposed, as left-hand rows of the output's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed {
    /// Keys in a block (the last may have fewer): of whole lines, and of whole tiles.
    pub(super) block: usize,
    pub(super) blocks: usize,
    /// `head_size` in whole lines of terms.
    pub(super) depth: usize,
    /// f32 that a row of `depth` terms takes.
    pub(super) row: usize,
    /// Terms of a line.
    pub(super) terms: usize,
    /// f32 of keys in a block.
    pub(super) keys: usize,
    /// Rows of values: `head_size`, and of bf16 one of ones behind them, whose product is the sum of
    /// what the values are weighted with.
    pub(super) values: usize,
    /// Rows of outputs that are summed up: the values', of bf16 with what tiles write beyond them, and
    /// at least `depth`.
    pub(super) outputs: usize,
    /// f32 of keys and values in a block.
    pub(super) stride: usize,
    /// f32 of a head.
    pub(super) size: usize,
}

impl Packed {
    pub(super) fn new(isa: Isa, products: Products, shape: &AttentionShape) -> Self {
        let terms = products.terms();
        let padded = |size: usize| size.next_multiple_of(terms);
        let words = |terms_in_row: usize| terms_in_row / terms * LINE;
        let depth = padded(shape.head_size);
        let block = match products.is_f32() {
            true => isa.rows() * LINE,
            // The same for every unit: of an emulation the same sums come in the same order. What a
            // block of short keys needs, with two panels of queries, is a 48 KiB first-level cache.
            false if depth <= 2 * terms => 2 * terms,
            false => 4 * terms,
        };
        let block = block.min(padded(shape.keys));
        let blocks = shape.keys.div_ceil(block);
        let keys = block * words(depth);
        let (values, outputs) = match products.is_f32() {
            true => (shape.head_size, depth),
            false => {
                let values = shape.head_size + 1;
                (values, depth.max(values.next_multiple_of(2 * LINE)))
            }
        };
        let stride = keys + values * words(block);
        Self {
            block,
            blocks,
            depth,
            row: words(depth),
            terms,
            keys,
            values,
            outputs,
            stride,
            size: blocks * stride,
        }
    }

    /// f32 that [`PackKeys`] needs meanwhile.
    pub(super) fn scratch(&self) -> usize {
        self.terms * (2 * self.depth + 1)
    }
}

/// Packs one block of one head.
pub(super) struct PackKeys {
    pub(super) call: Call,
    pub(super) packed: Packed,
    pub(super) head: usize,
    pub(super) block: usize,
    pub(super) to: *mut f32,
    pub(super) scratch: *mut f32,
}

impl UnitKernel for PackKeys {
    #[inline(always)]
    unsafe fn run<V: Vector, U: Unit<V>>(self) {
        let Self { call, packed, .. } = &self;
        let shape = &call.shape;
        let first = self.block * packed.block;
        let count = packed.block.min(shape.keys - first);
        let stride = call.stride();
        let offset = call.offset(self.head, shape.keys) + first * stride;
        let to = self.to.add(self.block * packed.stride);

        let rows = Rows {
            data: call.k.add(offset),
            stride,
            depth: shape.head_size,
        };
        let tiles = Tiles::of::<V, U>(count);
        for t in 0..tiles.count {
            let (row, height) = tiles.get(t);
            let lines = packed.depth / U::TERMS;
            rows.pack::<V, U>((row, height), (0, lines), to.add(row * packed.row));
        }

        let to = to.add(packed.keys);
        let lines = count.div_ceil(U::TERMS);
        let columns = self.scratch.add(U::TERMS * packed.depth);
        for line in 0..lines {
            let from = call.v.add(offset + line * U::TERMS * stride);
            let keys = U::TERMS.min(count - line * U::TERMS);
            self.transpose::<V, U>(from, keys);
            if packed.values > shape.head_size {
                let ones = columns.add(shape.head_size * U::TERMS);
                for key in 0..U::TERMS {
                    *ones.add(key) = if key < keys { 1.0 } else { 0.0 };
                }
            }
            let tiles = Tiles::of::<V, U>(packed.values);
            for t in 0..tiles.count {
                let (row, height) = tiles.get(t);
                let to = to.add((row * lines + line * height) * LINE);
                for r in 0..height {
                    let from = columns.add((row + r) * U::TERMS);
                    U::line(from, U::TERMS, to.add(r * LINE));
                }
            }
        }
    }
}

impl PackKeys {
    /// As many values' vectors `[keys][head_size]` as a line has terms, or fewer, to
    /// `[depth][terms]`, zero beyond both.
    #[inline(always)]
    unsafe fn transpose<V: Vector, U: Unit<V>>(&self, from: *const f32, keys: usize) {
        let depth = self.packed.depth;
        let rows = self.scratch;
        let columns = self.scratch.add(U::TERMS * depth);
        for key in 0..U::TERMS {
            for c in (0..depth).step_by(LINE) {
                let count = if key < keys {
                    LINE.min(self.call.shape.head_size.saturating_sub(c))
                } else {
                    0
                };
                let from = from.wrapping_add(key * self.call.stride() + c);
                copy_line::<V>(from, count, rows.add(key * depth + c));
            }
        }
        for key in (0..U::TERMS).step_by(V::LANES) {
            for c in (0..depth).step_by(V::LANES) {
                let from = rows.add(key * depth + c);
                V::transpose(from, depth, columns.add(c * U::TERMS + key), U::TERMS);
            }
        }
    }
}
