use crate::buffer::LINE;
use crate::products::Unit;
use crate::simd::Vector;

/// Source of the left-hand matrix's rows.
pub(crate) trait Source: Copy + Sync {
    /// Writes some rows (first, count) and lines of `U` (first, count) as `[lines][rows]` lines, zero
    /// beyond the depth.
    ///
    /// # Safety
    /// Under the instruction sets of `V` and `U`; `to` has room, rows and lines exist.
    unsafe fn pack<V: Vector, U: Unit<V>>(
        self,
        rows: (usize, usize),
        lines: (usize, usize),
        to: *mut f32,
    );
}

/// A row-major matrix of `depth` columns, its rows `stride` apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) data: *const f32,
    pub(crate) stride: usize,
    pub(crate) depth: usize,
}

// SAFETY: read only.
unsafe impl Send for Rows {}
// SAFETY: read only.
unsafe impl Sync for Rows {}

impl Source for Rows {
    #[inline(always)]
    unsafe fn pack<V: Vector, U: Unit<V>>(
        self,
        (row, rows): (usize, usize),
        (line, lines): (usize, usize),
        to: *mut f32,
    ) {
        for r in 0..rows {
            let from = self.data.add((row + r) * self.stride);
            for l in 0..lines {
                let k = (line + l) * U::TERMS;
                let to = to.add((l * rows + r) * LINE);
                U::line(from.add(k), (self.depth - k).min(U::TERMS), to);
            }
        }
    }
}

/// The `count` ≤ 16 values at `from`, then zeros up to 16.
#[inline(always)]
pub(crate) unsafe fn copy_line<V: Vector>(from: *const f32, count: usize, to: *mut f32) {
    for i in (0..LINE).step_by(V::LANES) {
        let x = if i + V::LANES <= count {
            V::load(from.add(i))
        } else if i < count {
            V::load_first(from.add(i), count - i)
        } else {
            V::zero()
        };
        x.store(to.add(i));
    }
}
