//! A block of keys in bf16: powers of two in 16 bits, beside a highest score that is raised only when
//! one does not fit beneath it, so that blocks add to the outputs and nothing is rescaled.

use super::block::{MASKED, Memory, Part, Queries};
use crate::buffer::LINE;
use crate::products::Unit;
use crate::products::powers::{FARTHEST, START, TOO_HIGH};
use crate::simd::Vector;

/// Scores, their powers, and the values that these weight.
#[inline(always)]
pub(super) unsafe fn block<V: Vector, U: Unit<V>>(queries: &Queries, memory: &Memory, part: &Part) {
    let width = 2 * V::LANES;
    let packed = &queries.packed;
    let keys = part.keys;
    let lines = packed.row / LINE;
    U::rows(keys, lines, part.from, part.queries, memory.scores, false);
    if queries.call.shape.causal {
        for key in 0..keys {
            // Queries before this key do not see it.
            let hidden = (part.first_key + key).saturating_sub(part.first_query);
            let scores = memory.scores.add(key * width);
            std::slice::from_raw_parts_mut(scores, hidden.min(width)).fill(MASKED);
        }
    }

    let lines = keys.div_ceil(U::TERMS);
    let known = keys.div_ceil(2) * width;
    let padding = lines * U::TERMS / 2 * width - known;
    memory.pairs.add(known).write_bytes(0, padding);
    // Nothing fits before the first block.
    if part.first_key == 0 || U::powers(keys, memory.scores, part.highest, memory.pairs) {
        raise::<V>(part, memory, packed.values);
        U::powers(keys, memory.scores, memory.factors, memory.pairs);
    }
    let values = part.from.add(packed.keys);
    U::rows(
        packed.values,
        lines,
        values,
        memory.pairs,
        part.outputs,
        true,
    );
}

/// Raises the highest of those queries of which a score does not fit beneath it, and makes their
/// outputs so far less by as much. Leaves the scores beside their highest, and zeros for these. Each
/// query's numbers are what they would be by itself.
#[inline(always)]
unsafe fn raise<V: Vector>(part: &Part, memory: &Memory, rows: usize) {
    let Part {
        keys,
        highest,
        outputs,
        ..
    } = *part;
    let width = 2 * V::LANES;
    let factors = memory.factors;
    for i in [0, V::LANES] {
        let mut top = V::splat(MASKED);
        for key in 0..keys {
            top = top.max(V::load(memory.scores.add(key * width + i)));
        }
        top.store(factors.add(i));
    }
    for column in 0..width {
        let (highest, factor) = (&mut *highest.add(column), &mut *factors.add(column));
        let (before, top) = (*highest, *factor);
        *factor = 1.0;
        if top - before + START < TOO_HIGH {
            continue;
        }
        // Whole numbers, for an exact factor: what changes with the block is no number's last bits.
        *highest = top.ceil();
        let exponent = (before - *highest).clamp(-127.0, 0.0) as i32;
        *factor = f32::from_bits(((127 + exponent) as u32) << 23);
    }
    for i in [0, V::LANES] {
        let factor = V::load(factors.add(i));
        for row in 0..rows {
            let x = outputs.add(row * width + i);
            V::load(x).mul(factor).store(x);
        }
        // From here on scores are beside their highest. One that is no number, or an infinite one
        // beside itself, makes the query's sum none.
        let top = V::load(highest.add(i));
        let mut nothing = V::zero();
        for key in 0..keys {
            let x = memory.scores.add(key * width + i);
            let score = V::splat(-FARTHEST).max(V::load(x).sub(top));
            score.store(x);
            nothing = nothing.add(score.sub(score));
        }
        let sums = outputs.add((rows - 1) * width + i);
        V::load(sums).add(nothing).store(sums);
        V::zero().store(factors.add(i));
    }
}
