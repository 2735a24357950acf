use super::Unit;
use crate::buffer::LINE;
use crate::gemm::{Ahead, Finish, copy_line, tile};
use crate::simd::Vector;

/// Fused multiply-adds of f32.
#[derive(Clone, Copy)]
pub(crate) struct Single;

impl Single {
    pub(super) const TERMS: usize = LINE;
    /// A panel of so many terms (32 columns at 16 lanes) is nearly twice a 48 KiB first-level
    /// cache; longer parts spare sums that go through memory.
    pub(super) const DEPTH: usize = 640;
}

impl<V: Vector> Unit<V> for Single {
    const TERMS: usize = Self::TERMS;
    const ROWS: usize = V::ROWS;
    const IS_SINGLE: bool = true;

    #[inline(always)]
    unsafe fn line(from: *const f32, count: usize, to: *mut f32) {
        copy_line::<V>(from, count, to);
    }

    #[inline(always)]
    unsafe fn tile<F: Finish>(
        rows: usize,
        registers: usize,
        k: usize,
        ab: [*const f32; 2],
        _scales: [*const f32; 2],
        ahead: Ahead,
        at: (usize, usize),
        finish: F,
    ) {
        tile::<V, F>(rows, registers, k, ab, ahead, at, finish);
    }
}
