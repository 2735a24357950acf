use super::super::tiles::{ROWS, configure, release, sum_int8};
use super::unit;
use crate::simd::F32x16;

/// The instruction TDPBSSD of AMX.
#[derive(Clone, Copy)]
pub(super) struct Tiles;

unit! {
    impl Unit<F32x16> for Tiles {
        const ROWS: usize = ROWS;
        const FILLS: bool = true;
        flipped: 0,
        sum: sum_int8,
        begin: configure, end: release,
    }
}
