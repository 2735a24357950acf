//! AVX-512 BF16: one instruction multiplies 16 pairs of a row's term and a column's and adds both
//! products to the 16 sums.

use core::arch::x86_64::*;

use super::{PAIRED, Shifted, Sums, Unit, UnitKernel, finish_rows, powers};
use crate::buffer::LINE;
use crate::gemm::{Ahead, Finish};
use crate::simd::{F32x16, Vector};

/// 14 × 2 accumulators, two columns of B and one broadcast: 31 of 32 registers.
pub(super) const ROWS: usize = 14;

/// The instruction VDPBF16PS.
#[derive(Clone, Copy)]
pub(super) struct Dot;

impl Dot {
    /// A panel as large as [`Single`](super::Single)'s; its emulation's, for the same bits.
    pub(super) const DEPTH: usize = super::emulation::Pairs::DEPTH;
}

/// Runs `kernel` with a unit that needs AVX-512 BF16.
///
/// # Safety
/// On a processor that has the sets named.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512vbmi,avx512bf16,avx2,fma,f16c")]
pub(super) unsafe fn run<U: Unit<F32x16>>(kernel: impl UnitKernel, _unit: U) {
    kernel.run::<F32x16, U>();
}

/// Two registers of f32 as the 32 bf16 next to them.
///
/// # Safety
/// Under AVX-512 BF16; `to` has room for 64 bytes.
#[inline(always)]
pub(super) unsafe fn round_line(from: *const f32, count: usize, to: *mut f32) {
    let [first, second] = if count >= PAIRED {
        [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16))]
    } else {
        let mask = ((1u64 << count) - 1) as u32;
        [
            _mm512_maskz_loadu_ps(mask as u16, from),
            _mm512_maskz_loadu_ps((mask >> 16) as u16, from.wrapping_add(16)),
        ]
    };
    let both = _mm512_cvtne2ps_pbh(second, first);
    _mm512_storeu_si512(to.cast(), std::mem::transmute::<__m512bh, __m512i>(both));
}

/// Lanes of two registers side by side, as bf16.
///
/// # Safety
/// Under AVX-512 BF16; `to` has room for 64 bytes.
#[inline(always)]
pub(super) unsafe fn round_pairs(first: F32x16, second: F32x16, to: *mut f32) {
    let both = _mm512_cvtne2ps_pbh(second.0, first.0);
    let both = std::mem::transmute::<__m512bh, __m512i>(both);
    // Word 2i is lane i of the first, word 2i + 1 of the second, which begins at word 16.
    let low = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let high = _mm512_slli_epi32::<16>(_mm512_add_epi32(low, _mm512_set1_epi32(16)));
    let places = _mm512_or_si512(low, high);
    _mm512_storeu_si512(to.cast(), _mm512_permutexvar_epi16(places, both));
}

impl Unit<F32x16> for Dot {
    const TERMS: usize = PAIRED;
    const ROWS: usize = ROWS;

    #[inline(always)]
    unsafe fn line(from: *const f32, count: usize, to: *mut f32) {
        round_line(from, count, to);
    }

    #[inline(always)]
    unsafe fn pair(first: F32x16, second: F32x16, to: *mut f32) {
        round_pairs(first, second, to);
    }

    #[inline(always)]
    unsafe fn tile<F: Finish>(
        rows: usize,
        registers: usize,
        k: usize,
        [a, b]: [*const f32; 2],
        _scales: [*const f32; 2],
        ahead: Ahead,
        at: (usize, usize),
        finish: F,
    ) {
        let mut sums = Sums::new();
        let to = sums.as_mut_ptr().cast::<f32>();
        let lines = k.div_ceil(PAIRED);
        if registers == 2 {
            multiply_rows::<2>(rows, lines, [a, b], ahead, to, false);
        } else {
            multiply_rows::<1>(rows, lines, [a, b], ahead, to, false);
        }
        finish_rows::<F32x16, F>(rows, registers, to, at, finish);
    }

    #[inline(always)]
    unsafe fn shifted(
        rows: usize,
        a: Shifted,
        b: *const f32,
        ahead: Ahead,
        to: *mut f32,
        more: bool,
    ) {
        debug_assert!((a.pitch, a.step, a.count) == (LINE, rows * LINE, 1));
        multiply_rows::<2>(rows, a.lines, [a.from, b], ahead, to, more);
    }

    #[inline(always)]
    unsafe fn powers(keys: usize, scores: *const f32, highest: *const f32, to: *mut f32) -> bool {
        powers::registers::powers(keys, scores, highest, to)
    }
}

#[inline(always)]
unsafe fn multiply_rows<const N: usize>(
    rows: usize,
    lines: usize,
    ab: [*const f32; 2],
    ahead: Ahead,
    to: *mut f32,
    more: bool,
) {
    macro_rules! by_rows {
        ($($r:literal)*) => {
            match rows {
                $($r => multiply::<$r, N>(lines, ab, ahead, to, more),)*
                _ => debug_assert!(false, "a tile of {rows} rows"),
            }
        };
    }
    by_rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// `R` rows of A times one panel of B, over so many lines of 16 pairs.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512vbmi,avx512bf16,avx2,fma,f16c")]
unsafe fn multiply<const R: usize, const N: usize>(
    lines: usize,
    [a, b]: [*const f32; 2],
    mut ahead: Ahead,
    to: *mut f32,
    more: bool,
) {
    let mut tile = [[_mm512_setzero_ps(); N]; R];
    if more {
        for (r, row) in tile.iter_mut().enumerate() {
            for (j, sum) in row.iter_mut().enumerate() {
                *sum = _mm512_loadu_ps(to.add(r * 32 + j * 16));
            }
        }
    }
    let (mut a, mut b) = (a.cast::<i32>(), b.cast::<i32>());
    for _ in 0..lines {
        for _ in 0..ahead.lines {
            F32x16::prefetch(ahead.from);
            ahead.from = ahead.from.wrapping_add(16);
        }
        for i in 0..16 {
            let mut columns = [_mm512_setzero_si512(); N];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = _mm512_loadu_si512(b.add(j * 16).cast());
            }
            for (r, row) in tile.iter_mut().enumerate() {
                let x = _mm512_set1_epi32(*a.add(r * 16 + i));
                for (sum, &column) in row.iter_mut().zip(&columns) {
                    *sum = _mm512_dpbf16_ps(
                        *sum,
                        std::mem::transmute::<__m512i, __m512bh>(x),
                        std::mem::transmute::<__m512i, __m512bh>(column),
                    );
                }
            }
            b = b.add(32);
        }
        a = a.add(R * 16);
    }
    for (r, row) in tile.iter().enumerate() {
        for (j, &sum) in row.iter().enumerate() {
            _mm512_storeu_ps(to.add(r * 32 + j * 16), sum);
        }
    }
}
