use super::Call;
use super::pack::Packed;
use crate::buffer::LINE;
use crate::gemm::{Ahead, Finish, Tiles, copy_line};
use crate::products::{Unit, UnitKernel};
use crate::simd::{Isa, Vector, exp2, exp2_rough};

/// Lower than any score, and still finite: a difference of two of them is a number.
const MASKED: f32 = -1e30;

/// f32 of queries that a task works on: with the sums as large, half of a 1 MiB second-level cache.
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
struct Memory {
    /// `[P][depth][W]`, or as many pairs.
    queries: *mut f32,
    /// `[P][depth][W]`: the output so far, transposed and not yet divided by the sums.
    outputs: *mut f32,
    /// `[P][W]`: highest score so far.
    highest: *mut f32,
    /// `[P][W]`: sum of exponentials so far.
    sums: *mut f32,
    /// `[block][W]`, and then in their place the exponentials, numbers or pairs.
    scores: *mut f32,
    /// `[W]`: what the earlier blocks are multiplied with, and `[W]` the highest score of a block.
    factors: *mut f32,
    /// `[W][depth]`.
    rows: *mut f32,
}

impl Queries {
    /// Queries per task.
    pub(super) fn chunk(isa: Isa, head_size: usize) -> usize {
        let width = 2 * isa.lanes();
        (CHUNK / (head_size.max(1) * width)).clamp(1, 128 / width) * width
    }

    /// f32 of memory for a task.
    pub(super) fn scratch(isa: Isa, chunk: usize, depth: usize, block: usize) -> usize {
        let width = 2 * isa.lanes();
        2 * chunk * depth + 2 * chunk + (block + 2 + depth) * width
    }

    unsafe fn memory(&self, width: usize) -> Memory {
        let depth = self.packed.depth;
        let panels = self.count.div_ceil(width);
        let queries = self.scratch;
        let outputs = queries.add(panels * depth * width);
        let highest = outputs.add(panels * depth * width);
        let sums = highest.add(panels * width);
        let scores = sums.add(panels * width);
        let factors = scores.add(self.packed.block * width);
        let rows = factors.add(2 * width);
        Memory {
            queries,
            outputs,
            highest,
            sums,
            scores,
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
        let outputs = memory.outputs.add(panel * depth * width);
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
        for x in (0..depth * width).step_by(V::LANES) {
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
        let shape = &self.call.shape;
        let first_key = block * packed.block;
        let keys = packed.block.min(shape.keys - first_key);
        let first_query = self.first + panel * width;
        if shape.causal && first_key >= first_query + width {
            return;
        }
        let from = self.from.add(block * packed.stride);
        let unscaled = [std::ptr::null(); 2];

        let highest = memory.highest.add(panel * width);
        let block_highest = memory.factors.add(width);
        V::load(highest).store(block_highest);
        V::load(highest.add(V::LANES)).store(block_highest.add(V::LANES));
        let scores = Scores {
            to: memory.scores,
            highest: block_highest,
            mask: shape.causal.then_some((first_key, first_query)),
        };
        let queries = memory.queries.add(panel * packed.depth * width);
        let tiles = Tiles::of::<V, U>(keys);
        for t in 0..tiles.count {
            let (row, rows) = tiles.get(t);
            let ab = [from.add(row * packed.row), queries];
            U::tile(
                rows,
                2,
                shape.head_size,
                ab,
                unscaled,
                Ahead::NONE,
                (row, 0),
                scores,
            );
        }

        for i in [0, V::LANES] {
            let before = V::load(highest.add(i));
            let now = V::load(block_highest.add(i));
            let factor = exp2(before.sub(now));
            let sums = memory.sums.add(panel * width + i);
            let mut sum = V::zero();
            if U::IS_SINGLE {
                for key in 0..keys {
                    let score = memory.scores.add(key * width + i);
                    let power = exp2(V::load(score).sub(now));
                    power.store(score);
                    sum = sum.add(power);
                }
            } else {
                // A pair takes the place of a score that has been read.
                for key in (0..keys.next_multiple_of(U::TERMS)).step_by(2) {
                    let mut pair = [V::zero(); 2];
                    for (j, power) in pair.iter_mut().enumerate().take(keys.saturating_sub(key)) {
                        let score = memory.scores.add((key + j) * width + i);
                        *power = exp2_rough(V::load(score).sub(now));
                        sum = sum.add(*power);
                    }
                    let to = memory.scores.add(key / 2 * width + i);
                    U::pair(pair[0], pair[1], to);
                }
            }
            V::load(sums).mul_add(factor, sum).store(sums);
            now.store(highest.add(i));
            factor.store(memory.factors.add(i));
        }

        let outputs = Outputs {
            to: memory.outputs.add(panel * packed.depth * width),
            factors: memory.factors,
        };
        let lines = keys.div_ceil(U::TERMS);
        let values = from.add(packed.keys);
        let tiles = Tiles::of::<V, U>(shape.head_size);
        for t in 0..tiles.count {
            let (row, rows) = tiles.get(t);
            let a = values.add(row * lines * LINE);
            let ab = [a, memory.scores];
            U::tile(rows, 2, keys, ab, unscaled, Ahead::NONE, (row, 0), outputs);
        }
    }

    /// Divides a panel's outputs by their sums and transposes them back.
    #[inline(always)]
    unsafe fn store<V: Vector>(&self, memory: &Memory, panel: usize) {
        let width = 2 * V::LANES;
        let depth = self.packed.depth;
        let shape = &self.call.shape;
        let outputs = memory.outputs.add(panel * depth * width);
        for i in [0, V::LANES] {
            let factor = V::splat(1.0).div(V::load(memory.sums.add(panel * width + i)));
            for c in 0..depth {
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

/// Keeps a tile of scores and raises the highest of each query.
#[derive(Clone, Copy)]
struct Scores {
    to: *mut f32,
    highest: *mut f32,
    /// The first key and the first query, where later keys are hidden.
    mask: Option<(usize, usize)>,
}

// SAFETY: used inside one task.
unsafe impl Send for Scores {}
// SAFETY: as above.
unsafe impl Sync for Scores {}

impl Finish for Scores {
    #[inline(always)]
    unsafe fn finish<V: Vector, const R: usize, const N: usize>(
        self,
        row: usize,
        _panel: usize,
        tile: [[V; N]; R],
    ) {
        for j in 0..N {
            let highest = self.highest.add(j * V::LANES);
            let mut top = V::load(highest);
            for (r, scores) in tile.iter().enumerate() {
                let to = self.to.add(((row + r) * N + j) * V::LANES);
                let mut score = scores[j];
                if let Some((first_key, first_query)) = self.mask {
                    // Queries before this key do not see it.
                    let hidden = (first_key + row + r)
                        .saturating_sub(first_query + j * V::LANES)
                        .min(V::LANES);
                    score.store(to);
                    for lane in 0..hidden {
                        *to.add(lane) = MASKED;
                    }
                    score = V::load(to);
                }
                score.store(to);
                top = top.max(score);
            }
            top.store(highest);
        }
    }
}

/// Adds a tile to the outputs so far.
#[derive(Clone, Copy)]
struct Outputs {
    to: *mut f32,
    factors: *const f32,
}

// SAFETY: used inside one task.
unsafe impl Send for Outputs {}
// SAFETY: as above.
unsafe impl Sync for Outputs {}

impl Finish for Outputs {
    #[inline(always)]
    unsafe fn finish<V: Vector, const R: usize, const N: usize>(
        self,
        row: usize,
        _panel: usize,
        tile: [[V; N]; R],
    ) {
        for j in 0..N {
            let factor = V::load(self.factors.add(j * V::LANES));
            for (r, sums) in tile.iter().enumerate() {
                let to = self.to.add(((row + r) * N + j) * V::LANES);
                V::load(to).mul_add(factor, sums[j]).store(to);
            }
        }
    }
}
