//! Powers of two in 16 bits, for the softmax between two products of bf16 (after Schraudolph 1999,
//! "A Fast, Compact Approximation of the Exponential Function").
//!
//! 24576 + x as f32 counts in 2⁻⁹: its bits, less those of 24576 − 127, are x + 127 in fixed point, 7
//! bits before the point and 9 behind it. Shifted to the right by two they are almost 2ˣ as bf16: the
//! exponent is right, and the mantissa is x's fraction f where it should be 2ᶠ − 1. What is too much
//! is looked up. These are additions, shifts and permutations alone: a processor that multiplies
//! tiles has only one port left for FMAs and comparisons of f32.

use crate::simd::Vector;

/// A score as high as the highest becomes 2⁻⁴⁰: later ones may exceed it by 40 before a power does
/// not fit, and what is 87 below it is zero.
const HIGHEST: f32 = -40.0;

/// Counts in 2⁻⁹, with as much room above as below.
const ORIGIN: f32 = 24576.0;

/// What [`ORIGIN`] − 127 has, and half of a last place of bf16 below, which rounds.
const LOWEST: i32 = ORIGIN.to_bits() as i32 - (127 << 9) - 2;

/// The least sum that does not fit.
pub(crate) const TOO_HIGH: f32 = f32::from_bits((LOWEST + u16::MAX as i32) as u32);

/// So far below the highest no score matters. Beside one that did not fit lower ones are raised to it:
/// the bits of sums below zero would mean something else.
pub(crate) const FARTHEST: f32 = 1024.0;

/// What a sum is whose score is the highest, or was.
pub(crate) const START: f32 = ORIGIN + HIGHEST;

#[repr(align(64))]
struct Table([u8; 64]);

/// 512·(1 + f − 2ᶠ) for each 64th of f, and the half by which the shift of whole numbers rounds up more
/// than down.
static EXCESS: Table = Table(excess());

const fn excess() -> [u8; 64] {
    // The middle of the eight sums that share an entry, which are two too high.
    const FIRST: f64 = 1.5 / 512.0;
    const TWO_TO_FIRST: f64 = 1.002_032_767_907_594;
    const TWO_TO_A_64TH: f64 = 1.010_889_286_051_700_5;
    let mut table = [0; 64];
    let mut power = TWO_TO_FIRST;
    let mut i = 0;
    while i < table.len() {
        let excess = 512.0 * (1.0 + FIRST + i as f64 / 64.0 - power);
        // To the nearest whole number.
        table[i] = (excess + 0.5 + 0.5) as u8;
        power *= TWO_TO_A_64TH;
        i += 1;
    }
    table
}

/// A power as bf16, from [`START`] and a score beside the highest.
#[inline(always)]
fn power(sum: f32, largest: &mut u16) -> u16 {
    let fixed = (sum.to_bits() as i32).wrapping_sub(LOWEST);
    let fixed = fixed.clamp(0, i32::from(u16::MAX)) as u16;
    *largest = fixed.max(*largest);
    fixed.saturating_sub(u16::from(EXCESS.0[usize::from(fixed >> 3 & 63)])) >> 2
}

/// The powers of the scores `[keys][2·LANES]` as pairs of bf16, `[keys/2][2·LANES][2]`, zero behind an
/// odd number, beside the columns' `highest`. True where one did not fit.
#[inline(always)]
pub(super) unsafe fn portable<V: Vector>(
    keys: usize,
    scores: *const f32,
    highest: *const f32,
    to: *mut f32,
) -> bool {
    let width = 2 * V::LANES;
    let to = to.cast::<[u16; 2]>();
    let mut largest = 0;
    for key in 0..keys {
        for column in 0..width {
            let sum = *scores.add(key * width + column) - *highest.add(column) + START;
            let pair = &mut *to.add(key / 2 * width + column);
            if key % 2 == 0 {
                pair[1] = 0;
            }
            pair[key % 2] = power(sum, &mut largest);
        }
    }
    largest == u16::MAX
}

/// The same by registers of 32 words.
#[cfg(target_arch = "x86_64")]
pub(super) mod registers {
    use core::arch::x86_64::*;

    use super::{EXCESS, LOWEST, START};

    /// A score that is lower than any.
    const NONE: f32 = -1e30;

    /// # Safety
    /// Under AVX-512 BW and VBMI.
    #[inline(always)]
    pub(in crate::products) unsafe fn powers(
        keys: usize,
        scores: *const f32,
        highest: *const f32,
        to: *mut f32,
    ) -> bool {
        let highest = [_mm512_loadu_ps(highest), _mm512_loadu_ps(highest.add(16))];
        let mut largest = [_mm512_setzero_si512(); 2];
        for key in (0..keys / 2 * 2).step_by(2) {
            for j in 0..2 {
                let from = scores.add(key * 32 + j * 16);
                let pair = [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(32))];
                let pair = pair_of(pair, highest[j], &mut largest[j]);
                _mm512_storeu_si512(to.add(key * 16 + j * 16).cast(), pair);
            }
        }
        if keys % 2 == 1 {
            for j in 0..2 {
                let from = scores.add((keys - 1) * 32 + j * 16);
                let pair = [_mm512_loadu_ps(from), _mm512_set1_ps(NONE)];
                let pair = pair_of(pair, highest[j], &mut largest[j]);
                _mm512_storeu_si512(to.add((keys - 1) * 16 + j * 16).cast(), pair);
            }
        }
        let largest = _mm512_max_epu16(largest[0], largest[1]);
        _mm512_cmpeq_epi16_mask(largest, _mm512_set1_epi16(-1)) != 0
    }

    /// Two scores of 16 columns.
    #[inline(always)]
    unsafe fn pair_of(scores: [__m512; 2], highest: __m512, largest: &mut __m512i) -> __m512i {
        let lowest = _mm512_set1_epi32(LOWEST);
        let first = _mm512_castps_si512(_mm512_add_ps(
            _mm512_sub_ps(scores[0], highest),
            _mm512_set1_ps(START),
        ));
        let second = _mm512_castps_si512(_mm512_add_ps(
            _mm512_sub_ps(scores[1], highest),
            _mm512_set1_ps(START),
        ));
        let first = _mm512_sub_epi32(first, lowest);
        let second = _mm512_sub_epi32(second, lowest);
        // Saturated words: in each quarter four of the first, then four of the second.
        let fixed = _mm512_packus_epi32(first, second);
        *largest = _mm512_max_epu16(*largest, fixed);
        // Six bits of each lower byte are read; the upper ones become zero.
        let places = _mm512_srli_epi16::<3>(fixed);
        let table = _mm512_load_si512(EXCESS.0.as_ptr().cast());
        let excess = _mm512_maskz_permutexvar_epi8(0x5555_5555_5555_5555, places, table);
        let powers = _mm512_srli_epi16::<2>(_mm512_subs_epu16(fixed, excess));
        let pairs = _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
        _mm512_shuffle_epi8(powers, _mm512_broadcast_i32x4(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum is rounded to 2⁻⁹ (e^(ln 2·2⁻¹⁰) − 1 < 0.0007), the power to 2⁻⁷ of what is below it
    /// (half of that is 0.0040 of it), and three places of the fraction make no difference to the
    /// excess, which changes by at most 0.39 of them to each side (2/512 · 0.39 = 0.0016) and is
    /// rounded itself (0.5/512).
    #[test]
    fn powers_are_within_their_error() {
        let mut squares = 0.0;
        let mut sum = 0.0;
        let count = 100_000;
        for i in 0..count {
            let score = -80.0 * i as f32 / count as f32;
            let found = power(score + START, &mut 0);
            let found = f64::from(f32::from_bits(u32::from(found) << 16));
            let exact = f64::from(score + HIGHEST).exp2();
            let off = found / exact - 1.0;
            assert!(off.abs() < 0.0075, "2^{score}: off by {off}");
            squares += off * off;
            sum += off;
        }
        let count = f64::from(count);
        let (mean, deviation) = (sum / count, (squares / count).sqrt());
        assert!(mean.abs() < 2e-4, "{mean}");
        assert!(deviation < 2.5e-3, "{deviation}");
    }

    #[test]
    fn what_is_far_below_is_zero_and_what_is_above_is_told() {
        let mut highest = 0;
        for score in [-100.0, -FARTHEST, -1e30, f32::NEG_INFINITY] {
            assert_eq!(power(score + START, &mut highest), 0, "{score}");
        }
        assert!(highest < u16::MAX);
        let fits = TOO_HIGH.next_down() - START;
        power(fits + START, &mut highest);
        assert_eq!(highest, u16::MAX - 1);
        for score in [TOO_HIGH - START, 1e9, f32::INFINITY, f32::NAN] {
            let mut highest = 0;
            power(score + START, &mut highest);
            assert_eq!(highest, u16::MAX, "{score}");
        }
    }
}
