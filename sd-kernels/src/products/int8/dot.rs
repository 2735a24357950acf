//! VNNI: one instruction multiplies four bytes without a sign of a row with four that have one of a
//! column, for a register of columns, and adds all products to the sums.
//!
//! A row's bytes are packed 128 higher, as numbers without a sign; one more row, all of whose bytes are
//! 128, sums what that adds. No sum saturates, and what wraps around comes back.

use core::arch::x86_64::*;

use super::{GROUP, LINE_TERMS, unit};
use crate::gemm::Ahead;
use crate::products::{Unit, UnitKernel};
use crate::simd::{F32x8, F32x16};

/// 12 × 2 accumulators and two of the row of 128s, two columns of B and one broadcast: 29 of 32
/// registers.
pub(super) const WIDE_ROWS: usize = 12;

/// 4 × 2 accumulators and two, two columns and one broadcast: 13 of 16 registers.
pub(super) const NARROW_ROWS: usize = 4;

/// Flips a sign into 128 more.
const OFFSET: u8 = 128;

/// The instruction VPDPBUSD of AVX-512 VNNI.
#[derive(Clone, Copy)]
pub(super) struct Wide;

/// That of AVX-VNNI.
#[derive(Clone, Copy)]
pub(super) struct Narrow;

/// Runs `kernel` with a unit that needs AVX-512 VNNI.
///
/// # Safety
/// On a processor that has the sets named.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn run_wide<U: Unit<F32x16>>(kernel: impl UnitKernel, _unit: U) {
    kernel.run::<F32x16, U>();
}

/// Runs `kernel` with AVX-VNNI.
///
/// # Safety
/// On a processor that has the sets named.
#[target_feature(enable = "avxvnni,avx2,fma,f16c")]
pub(super) unsafe fn run_narrow(kernel: impl UnitKernel) {
    kernel.run::<F32x8, Narrow>();
}

unit! {
    impl Unit<F32x16> for Wide {
        const ROWS: usize = WIDE_ROWS;
        flipped: OFFSET,
        sum: sum_wide,
    }
}

unit! {
    impl Unit<F32x8> for Narrow {
        const ROWS: usize = NARROW_ROWS;
        flipped: OFFSET,
        sum: sum_narrow,
    }
}

/// Defines the sums of so many lines of up to so many rows times one panel, by the registers of an
/// instruction set.
macro_rules! sums_of {
    (
        $name:ident, $features:literal, $register:ty, rows $($r:literal)*,
        $zero:ident, $splat:ident, $load:ident, $store:ident, $sub:ident, $dot:ident
    ) => {
        #[inline(always)]
        unsafe fn $name(lines: usize, rows: usize, [a, b]: [*const f32; 2], _ahead: Ahead, to: *mut f32) {
            #[target_feature(enable = $features)]
            unsafe fn sum<const R: usize>(lines: usize, mut a: *const i32, mut b: *const i32, to: *mut f32) {
                const LANES: usize = size_of::<$register>() / 4;
                let mut tile = [[$zero(); 2]; R];
                let (offset, mut offsets) = ($splat(i32::from_ne_bytes([OFFSET; 4])), [$zero(); 2]);
                for _ in 0..lines {
                    for i in 0..LINE_TERMS / GROUP {
                        let columns = [$load(b.cast()), $load(b.add(LANES).cast())];
                        for (sum, column) in offsets.iter_mut().zip(columns) {
                            *sum = $dot(*sum, offset, column);
                        }
                        for (r, row) in tile.iter_mut().enumerate() {
                            let x = $splat(*a.add(r * (LINE_TERMS / GROUP) + i));
                            for (sum, column) in row.iter_mut().zip(columns) {
                                *sum = $dot(*sum, x, column);
                            }
                        }
                        b = b.add(2 * LANES);
                    }
                    a = a.add(R * (LINE_TERMS / GROUP));
                }
                for (r, row) in tile.into_iter().enumerate() {
                    for (j, (sum, more)) in row.into_iter().zip(offsets).enumerate() {
                        $store(to.add((r * 2 + j) * LANES).cast(), $sub(sum, more));
                    }
                }
            }
            match rows {
                $($r => sum::<$r>(lines, a.cast(), b.cast(), to),)*
                _ => debug_assert!(false, "a tile of {rows} rows"),
            }
        }
    };
}

sums_of!(
    sum_wide, "avx512f,avx512vl,avx512bw,avx512vnni,avx2,fma,f16c", __m512i, rows 1 2 3 4 5 6 7 8 9 10 11 12,
    _mm512_setzero_si512, _mm512_set1_epi32, _mm512_loadu_si512, _mm512_storeu_si512,
    _mm512_sub_epi32, _mm512_dpbusd_epi32
);
sums_of!(
    sum_narrow, "avxvnni,avx2,fma,f16c", __m256i, rows 1 2 3 4,
    _mm256_setzero_si256, _mm256_set1_epi32, _mm256_loadu_si256, _mm256_storeu_si256,
    _mm256_sub_epi32, _mm256_dpbusd_avx_epi32
);
