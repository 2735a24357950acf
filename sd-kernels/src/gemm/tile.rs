//! The innermost loop: a tile of C in registers.

use crate::buffer::LINE;
use crate::simd::Vector;

/// Treatment of a finished tile of `R` rows and `N` registers of columns.
pub(crate) trait Finish: Copy + Sync {
    /// # Safety
    /// Under the instruction set of `V`; `row` + `R` and column `panel` within what the
    /// implementor's pointers cover.
    unsafe fn finish<V: Vector, const R: usize, const N: usize>(
        self,
        row: usize,
        panel: usize,
        tile: [[V; N]; R],
    );
}

/// Memory to bring into the cache meanwhile: so many lines of 64 bytes with each line of terms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    pub(crate) from: *const f32,
    pub(crate) lines: usize,
    /// Bytes to that of the next part, where what is multiplied is in several.
    pub(crate) step: usize,
}

impl Ahead {
    /// No memory.
    pub(crate) const NONE: Self = Self {
        from: std::ptr::null(),
        lines: 0,
        step: 0,
    };
}

/// `R` rows of A times one panel of B, over `k` ≥ 1 terms.
///
/// A is in lines of 16 consecutive k: `[k/16][R][16]`, so that a row's next value is a broadcast at
/// a constant distance from one pointer. B is `[k][2·LANES]`, of which `N` registers are used.
#[inline(always)]
pub(crate) unsafe fn multiply<V: Vector, const R: usize, const N: usize>(
    k: usize,
    mut a: *const f32,
    mut b: *const f32,
    mut ahead: Ahead,
) -> [[V; N]; R] {
    let mut tile = [[V::zero(); N]; R];
    for _ in 0..k / LINE {
        for _ in 0..ahead.lines {
            V::prefetch(ahead.from);
            ahead.from = ahead.from.wrapping_add(LINE);
        }
        for offset in (0..LINE).step_by(4) {
            for i in 0..4 {
                rank_one(&mut tile, a.add(offset + i), b);
                b = b.add(2 * V::LANES);
            }
        }
        a = a.add(R * LINE);
    }
    for i in 0..k % LINE {
        rank_one(&mut tile, a.add(i), b);
        b = b.add(2 * V::LANES);
    }
    tile
}

#[inline(always)]
unsafe fn rank_one<V: Vector, const R: usize, const N: usize>(
    tile: &mut [[V; N]; R],
    a: *const f32,
    b: *const f32,
) {
    let mut columns = [V::zero(); N];
    for (j, column) in columns.iter_mut().enumerate() {
        *column = V::load(b.add(j * V::LANES));
    }
    for (r, row) in tile.iter_mut().enumerate() {
        let x = V::splat(*a.add(r * LINE));
        for (c, &column) in row.iter_mut().zip(&columns) {
            *c = x.mul_add(column, *c);
        }
    }
}

/// [`multiply`] and [`Finish::finish`] for `rows` in 1..=14 and `registers` 1 or 2.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn tile<V: Vector, F: Finish>(
    rows: usize,
    registers: usize,
    k: usize,
    [a, b]: [*const f32; 2],
    ahead: Ahead,
    (row, panel): (usize, usize),
    finish: F,
) {
    macro_rules! by_rows {
        ($n:literal: $($r:literal)*) => {
            match rows {
                // Tiles taller than this instruction set's are never asked for: no code for them.
                $($r if $r <= V::ROWS => {
                    finish.finish::<V, $r, $n>(row, panel, multiply::<V, $r, $n>(k, a, b, ahead));
                })*
                _ => debug_assert!(false, "a tile of {rows} rows"),
            }
        };
    }
    if registers == 2 {
        by_rows!(2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    } else {
        by_rows!(1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}
