use super::super::tiles::{RESIDENT, ROWS, configure, release, sum_int8};
use super::unit;
use crate::gemm::Ahead;
use crate::products::Shifted;
use crate::simd::F32x16;

/// The instruction TDPBSSD of AMX.
#[derive(Clone, Copy)]
pub(super) struct Tiles;

unit! {
    impl Unit<F32x16> for Tiles {
        const ROWS: usize = ROWS;
        const FILLS: bool = true;
        const RESIDENT: usize = RESIDENT;
        flipped: 0,
        sum: sum,
        shifted: sum_int8,
        begin: configure, end: release,
    }
}

/// Sums of products of so many lines.
#[inline(always)]
unsafe fn sum(lines: usize, rows: usize, [a, b]: [*const f32; 2], ahead: Ahead, to: *mut f32) {
    sum_int8(rows, Shifted::packed(a, rows, lines), b, ahead, to, false);
}
