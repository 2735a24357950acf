//! A block of keys in f32: the softmax online (Milakov and Gimelshein 2018, arXiv:1805.02867).

use super::block::{MASKED, Memory, Queries};
use crate::gemm::{Ahead, Finish, Tiles};
use crate::products::Unit;
use crate::simd::{Vector, exp2};

/// Scores, their exponentials beside the highest so far, and the values that these weight, for one
/// panel of queries.
#[inline(always)]
pub(super) unsafe fn block<V: Vector, U: Unit<V>>(
    queries: &Queries,
    memory: &Memory,
    block: usize,
    panel: usize,
) {
    let width = 2 * V::LANES;
    let packed = &queries.packed;
    let shape = &queries.call.shape;
    let first_key = block * packed.block;
    let keys = packed.block.min(shape.keys - first_key);
    let first_query = queries.first + panel * width;
    let from = queries.from.add(block * packed.stride);
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
    let b = memory.queries.add(panel * packed.depth * width);
    let tiles = Tiles::of::<V, U>(keys);
    for t in 0..tiles.count {
        let (row, rows) = tiles.get(t);
        let ab = [from.add(row * packed.row), b];
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
        for key in 0..keys {
            let score = memory.scores.add(key * width + i);
            let power = exp2(V::load(score).sub(now));
            power.store(score);
            sum = sum.add(power);
        }
        V::load(sums).mul_add(factor, sum).store(sums);
        now.store(highest.add(i));
        factor.store(memory.factors.add(i));
    }

    let outputs = Outputs {
        to: memory.outputs.add(panel * packed.outputs * width),
        factors: memory.factors,
    };
    let lines = keys.div_ceil(U::TERMS);
    let values = from.add(packed.keys);
    let tiles = Tiles::of::<V, U>(shape.head_size);
    for t in 0..tiles.count {
        let (row, rows) = tiles.get(t);
        let a = values.add(row * lines * crate::buffer::LINE);
        let ab = [a, memory.scores];
        U::tile(rows, 2, keys, ab, unscaled, Ahead::NONE, (row, 0), outputs);
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
