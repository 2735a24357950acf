//! A task: some queries of one head against all its keys.

use super::pack::Packed;
use super::{Call, paired, single};
use crate::buffer::LINE;
use crate::gemm::copy_line;
use crate::products::{Products, Unit, UnitKernel};
use crate::simd::{Isa, Vector};

/// Lower than any score, and still finite: a difference of two of them is a number.
pub(super) const MASKED: f32 = -1e30;

/// f32 of queries that a task in f32 works on: with the sums as large, half of a 1 MiB second-level
/// cache.
const CHUNK: usize = 48 * 1024;

/// Some queries of one head against all its keys.
pub(super) struct Queries {
    pub(super) call: Call,
    pub(super) packed: Packed,
    /// The head's packed keys and values.
    pub(super) from: *const f32,
    pub(super) head: usize,
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) scratch: *mut f32,
}

/// The task's memory. `P` panels of `W` = 2·LANES queries.
#[derive(Clone, Copy)]
pub(super) struct Memory {
    /// `[P][depth][W]`, or as many pairs.
    pub(super) queries: *mut f32,
    /// `[P][outputs][W]`: the output so far, transposed and not yet divided by the sums; of bf16 with
    /// the sums behind it.
    pub(super) outputs: *mut f32,
    /// `[P][W]`: highest score so far, or of bf16 what stands for it.
    pub(super) highest: *mut f32,
    /// `[P][W]`: sum of exponentials so far, of f32 alone.
    pub(super) sums: *mut f32,
    /// `[block][W]`; of f32 then in their place the exponentials.
    pub(super) scores: *mut f32,
    /// `[block/2][W]` pairs of exponentials, of bf16 alone.
    pub(super) pairs: *mut f32,
    /// `[W]`: what the earlier blocks are multiplied with, and `[W]` the highest score of a block.
    pub(super) factors: *mut f32,
    /// `[W][depth]`.
    rows: *mut f32,
}

/// A block of keys and a panel of queries, and their places in the task's memory.
pub(super) struct Part {
    pub(super) first_key: usize,
    pub(super) keys: usize,
    /// The block's packed keys and values.
    pub(super) from: *const f32,
    pub(super) first_query: usize,
    pub(super) queries: *const f32,
    pub(super) highest: *mut f32,
    pub(super) sums: *mut f32,
    pub(super) outputs: *mut f32,
}

impl Queries {
    /// Queries per task.
    pub(super) fn chunk(isa: Isa, products: Products, head_size: usize) -> usize {
        let width = 2 * isa.lanes();
        if !products.is_f32() {
            return 2 * width;
        }
        (CHUNK / (head_size.max(1) * width)).clamp(1, 128 / width) * width
    }

    /// f32 of memory for a task.
    pub(super) fn scratch(isa: Isa, chunk: usize, packed: &Packed) -> usize {
        let width = 2 * isa.lanes();
        let per_query = packed.depth + packed.outputs + 2;
        let per_column = packed.block + packed.block / 2 + 2 + packed.depth;
        per_query * chunk + per_column * width
    }

    unsafe fn memory(&self, width: usize) -> Memory {
        let depth = self.packed.depth;
        let panels = self.count.div_ceil(width);
        let queries = self.scratch;
        let outputs = queries.add(panels * depth * width);
        let highest = outputs.add(panels * self.packed.outputs * width);
        let sums = highest.add(panels * width);
        let scores = sums.add(panels * width);
        let pairs = scores.add(self.packed.block * width);
        let factors = pairs.add(self.packed.block / 2 * width);
        let rows = factors.add(2 * width);
        Memory {
            queries,
            outputs,
            highest,
            sums,
            scores,
            pairs,
            factors,
            rows,
        }
    }
}

impl UnitKernel for Queries {
    #[inline(always)]
    unsafe fn run<V: Vector, U: Unit<V>>(self) {
        let width = 2 * V::LANES;
        let memory = self.memory(width);
        let panels = self.count.div_ceil(width);
        for panel in 0..panels {
            self.load::<V, U>(&memory, panel);
        }
        U::begin();
        for block in 0..self.packed.blocks {
            for panel in 0..panels {
                self.block::<V, U>(&memory, block, panel);
            }
        }
        U::end();
        for panel in 0..panels {
            self.store::<V>(&memory, panel);
        }
    }
}

impl Queries {
    /// Transposes a panel of queries, scaled so that the softmax is one of powers of two.
    #[inline(always)]
    unsafe fn load<V: Vector, U: Unit<V>>(&self, memory: &Memory, panel: usize) {
        let width = 2 * V::LANES;
        let depth = self.packed.depth;
        let shape = &self.call.shape;
        let offset = self.call.offset(self.head, shape.queries);
        let scale = V::splat(shape.scale * std::f32::consts::LOG2_E);
        for i in 0..width {
            let query = panel * width + i;
            let at = offset + (self.first + query) * self.call.stride();
            for c in (0..depth).step_by(LINE) {
                let count = if query < self.count {
                    LINE.min(shape.head_size.saturating_sub(c))
                } else {
                    0
                };
                let to = memory.rows.add(i * depth + c);
                copy_line::<V>(self.call.q.wrapping_add(at + c), count, to);
            }
        }
        for x in (0..width * depth).step_by(V::LANES) {
            let x = memory.rows.add(x);
            V::load(x).mul(scale).store(x);
        }
        let queries = memory.queries.add(panel * depth * width);
        let outputs = memory.outputs.add(panel * self.packed.outputs * width);
        // Pairs are made of what lies for a moment where the outputs will be.
        let to = if U::IS_SINGLE { queries } else { outputs };
        for i in (0..width).step_by(V::LANES) {
            for c in (0..depth).step_by(V::LANES) {
                let from = memory.rows.add(i * depth + c);
                V::transpose(from, depth, to.add(c * width + i), width);
            }
        }
        if !U::IS_SINGLE {
            for c in (0..depth).step_by(2) {
                for i in [0, V::LANES] {
                    let from = outputs.add(c * width + i);
                    let pair = queries.add(c / 2 * width + i);
                    U::pair(V::load(from), V::load(from.add(width)), pair);
                }
            }
        }
        for x in (0..self.packed.outputs * width).step_by(V::LANES) {
            V::zero().store(outputs.add(x));
        }
        for i in [0, V::LANES] {
            V::splat(MASKED).store(memory.highest.add(panel * width + i));
            V::zero().store(memory.sums.add(panel * width + i));
        }
    }

    /// One block of keys for one panel of queries.
    #[inline(always)]
    unsafe fn block<V: Vector, U: Unit<V>>(&self, memory: &Memory, block: usize, panel: usize) {
        let width = 2 * V::LANES;
        let packed = &self.packed;
        let first_key = block * packed.block;
        let part = Part {
            first_key,
            keys: packed.block.min(self.call.shape.keys - first_key),
            from: self.from.add(block * packed.stride),
            first_query: self.first + panel * width,
            queries: memory.queries.add(panel * packed.depth * width),
            highest: memory.highest.add(panel * width),
            sums: memory.sums.add(panel * width),
            outputs: memory.outputs.add(panel * packed.outputs * width),
        };
        if self.call.shape.causal && first_key >= part.first_query + width {
            return;
        }
        if U::IS_SINGLE {
            single::block::<V, U>(self, memory, &part);
        } else {
            paired::block::<V, U>(self, memory, &part);
        }
    }

    /// Divides a panel's outputs by their sums and transposes them back.
    #[inline(always)]
    unsafe fn store<V: Vector>(&self, memory: &Memory, panel: usize) {
        let width = 2 * V::LANES;
        let depth = self.packed.depth;
        let shape = &self.call.shape;
        let outputs = memory.outputs.add(panel * self.packed.outputs * width);
        let sums = match self.packed.values == shape.head_size {
            true => memory.sums.add(panel * width),
            false => outputs.add(shape.head_size * width),
        };
        for i in [0, V::LANES] {
            let factor = V::splat(1.0).div(V::load(sums.add(i)));
            // The sums themselves may be among these rows: they are not written.
            for c in 0..shape.head_size {
                let x = outputs.add(c * width + i);
                V::load(x).mul(factor).store(x);
            }
            for c in (0..depth).step_by(V::LANES) {
                let to = memory.rows.add(i * depth + c);
                V::transpose(outputs.add(c * width + i), width, to, depth);
            }
        }
        let offset = self.call.offset(self.head, shape.queries);
        for i in 0..width.min(self.count - panel * width) {
            let query = self.first + panel * width + i;
            let to = self.call.out.get().add(offset + query * self.call.stride());
            for c in (0..shape.head_size).step_by(V::LANES) {
                let x = V::load(memory.rows.add(i * depth + c));
                x.store_up_to(to.add(c), V::LANES.min(shape.head_size - c));
            }
        }
    }
}
