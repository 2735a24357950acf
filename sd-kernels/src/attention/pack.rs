use super::{AttentionShape, Call, padded};
use crate::buffer::LINE;
use crate::gemm::{Rows, Source, Tiles, copy_line};
use crate::simd::{Isa, Kernel, Vector};

/// Layout of a head's keys and values in memory: block by block of keys, the keys as left-hand rows
/// of the scores' product, then the values transposed, as left-hand rows of the output's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed {
    /// Keys in a block (the last may have fewer): a multiple of 16 and of the tile height.
    pub(super) block: usize,
    pub(super) blocks: usize,
    /// `head_size` in whole lines.
    pub(super) depth: usize,
    /// f32 of keys in a block.
    pub(super) keys: usize,
    /// f32 of keys and values in a block.
    pub(super) stride: usize,
    /// f32 of a head.
    pub(super) size: usize,
}

impl Packed {
    pub(super) fn new(isa: Isa, shape: &AttentionShape) -> Self {
        let block = (isa.rows() * LINE).min(padded(shape.keys));
        let blocks = shape.keys.div_ceil(block);
        let depth = padded(shape.head_size);
        let keys = block * depth;
        let stride = keys + shape.head_size * block;
        Self {
            block,
            blocks,
            depth,
            keys,
            stride,
            size: blocks * stride,
        }
    }

    /// f32 that [`PackKeys`] needs meanwhile.
    pub(super) fn scratch(&self) -> usize {
        2 * LINE * self.depth
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

impl Kernel for PackKeys {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
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
        let tiles = Tiles::new(count, V::ROWS);
        for t in 0..tiles.count {
            let (row, height) = tiles.get(t);
            let lines = packed.depth / LINE;
            rows.pack::<V>((row, height), (0, lines), to.add(row * packed.depth));
        }

        let to = to.add(packed.keys);
        let lines = count.div_ceil(LINE);
        for line in 0..lines {
            let from = call.v.add(offset + line * LINE * stride);
            let keys = LINE.min(count - line * LINE);
            self.transpose::<V>(from, keys);
            let columns = self.scratch.add(LINE * packed.depth);
            let tiles = Tiles::new(shape.head_size, V::ROWS);
            for t in 0..tiles.count {
                let (row, height) = tiles.get(t);
                let to = to.add((row * lines + line * height) * LINE);
                for r in 0..height {
                    copy_line::<V>(columns.add((row + r) * LINE), LINE, to.add(r * LINE));
                }
            }
        }
    }
}

impl PackKeys {
    /// Up to 16 values' vectors `[keys][head_size]` to `[depth][16]`, zero beyond both.
    #[inline(always)]
    unsafe fn transpose<V: Vector>(&self, from: *const f32, keys: usize) {
        let depth = self.packed.depth;
        let rows = self.scratch;
        let columns = self.scratch.add(LINE * depth);
        for key in 0..LINE {
            for c in (0..depth).step_by(LINE) {
                let count = if key < keys {
                    LINE.min(self.call.shape.head_size - c)
                } else {
                    0
                };
                let from = from.wrapping_add(key * self.call.stride() + c);
                copy_line::<V>(from, count, rows.add(key * depth + c));
            }
        }
        for key in (0..LINE).step_by(V::LANES) {
            for c in (0..depth).step_by(V::LANES) {
                let from = rows.add(key * depth + c);
                V::transpose(from, depth, columns.add(c * LINE + key), LINE);
            }
        }
    }
}
