//! A block of keys in f32: the softmax online (Milakov and Gimelshein 2018, arXiv:1805.02867).

use super::block::{MASKED, Memory, Part, Queries};
use crate::buffer::LINE;
use crate::gemm::{Ahead, Finish, Tiles};
use crate::products::Unit;
use crate::simd::{Vector, exp2};

/// Scores, their exponentials beside the highest so far, and the values that these weight.
#[inline(always)]
pub(super) unsafe fn block<V: Vector, U: Unit<V>>(queries: &Queries, memory: &Memory, part: &Part) {
    let width = 2 * V::LANES;
    let Queries { call, packed, .. } = queries;
    let shape = &call.shape;
    let unscaled = [std::ptr::null(); 2];

    let block_highest = memory.factors.add(width);
    for i in [0, V::LANES] {
        V::load(part.highest.add(i)).store(block_highest.add(i));
    }
    let scores = Scores {
        to: memory.scores,
        highest: block_highest,
        mask: shape.causal.then_some((part.first_key, part.first_query)),
    };
    let tiles = Tiles::of::<V, U>(part.keys);
    for t in 0..tiles.count {
        let (row, rows) = tiles.get(t);
        let ab = [part.from.add(row * packed.row), part.queries];
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
        let before = V::load(part.highest.add(i));
        let now = V::load(block_highest.add(i));
        let factor = exp2(before.sub(now));
        let mut sum = V::zero();
        for key in 0..part.keys {
            let score = memory.scores.add(key * width + i);
            let power = exp2(V::load(score).sub(now));
            power.store(score);
            sum = sum.add(power);
        }
        let sums = part.sums.add(i);
        V::load(sums).mul_add(factor, sum).store(sums);
        now.store(part.highest.add(i));
        factor.store(memory.factors.add(i));
    }

    let outputs = Outputs {
        to: part.outputs,
        factors: memory.factors,
    };
    let lines = part.keys.div_ceil(U::TERMS);
    let values = part.from.add(packed.keys);
    let tiles = Tiles::of::<V, U>(packed.values);
    for t in 0..tiles.count {
        let (row, rows) = tiles.get(t);
        let ab = [values.add(row * lines * LINE), memory.scores];
        let at = (row, 0);
        U::tile(rows, 2, part.keys, ab, unscaled, Ahead::NONE, at, outputs);
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
