use core::arch::x86_64::*;

use super::Vector;

/// Sixteen f32 in a 512-bit register.
#[derive(Clone, Copy)]
pub(crate) struct F32x16(pub(crate) __m512);

#[inline(always)]
fn mask(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}

/// The bits of f32 whose upper halves are `x` as bf16.
#[inline(always)]
unsafe fn rounded(x: __m512) -> __m512i {
    let bits = _mm512_castps_si512(x);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    let nearest = _mm512_add_epi32(bits, half);
    // No bit of the exponent.
    let small = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7f80_0000));
    let sign = _mm512_set1_epi32(i32::MIN);
    let found = _mm512_mask_and_epi32(nearest, small, bits, sign);
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    _mm512_mask_or_epi32(found, nan, bits, _mm512_set1_epi32(0x40_0000))
}

impl Vector for F32x16 {
    const LANES: usize = 16;
    // 14 × 2 accumulators, two columns of B and one broadcast: 31 of 32 registers.
    const ROWS: usize = 14;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(_mm512_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(_mm512_loadu_ps(from))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        _mm512_storeu_ps(to, self.0);
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        Self(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast())))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
        Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        let wide = _mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()));
        Self(_mm512_cvtepi32_ps(wide))
    }

    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> Self {
        Self(_mm512_cvtepi32_ps(_mm512_loadu_si512(from.cast())))
    }

    #[inline(always)]
    unsafe fn load_masked(from: *const u8, mask: u32) -> Self {
        let wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()));
        let bits = _mm512_and_si512(wide, _mm512_set1_epi32(mask as i32));
        Self(_mm512_cvtepi32_ps(bits))
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8) {
        let whole = _mm512_cvtps_epi32(self.0);
        _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(whole));
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        let upper = _mm512_srli_epi32::<16>(rounded(self.0));
        _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(upper));
    }

    #[inline(always)]
    unsafe fn store_pairs(first: Self, second: Self, to: *mut u32) {
        let low = _mm512_srli_epi32::<16>(rounded(first.0));
        let high = _mm512_and_si512(rounded(second.0), _mm512_set1_epi32(0xffff_0000u32 as i32));
        _mm512_storeu_si512(to.cast(), _mm512_or_si512(low, high));
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        Self(_mm512_maskz_loadu_ps(mask(count), from))
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        _mm512_mask_storeu_ps(to, mask(count), self.0);
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const f32) {
        _mm_prefetch::<_MM_HINT_T0>(from.cast());
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(_mm512_add_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(_mm512_sub_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(_mm512_mul_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(_mm512_div_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self(_mm512_min_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self(_mm512_max_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        Self(_mm512_fmadd_ps(self.0, b.0, c.0))
    }

    #[inline(always)]
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
        Self(_mm512_fnmadd_ps(self.0, b.0, c.0))
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(_mm512_roundscale_ps::<
            { _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC },
        >(self.0))
    }

    #[inline(always)]
    unsafe fn scale_exp2(self, n: Self) -> Self {
        Self(_mm512_scalef_ps(self.0, n.0))
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        let mut r = [_mm512_setzero_ps(); 16];
        for (i, r) in r.iter_mut().enumerate() {
            *r = _mm512_loadu_ps(from.add(i * from_stride));
        }
        // 4×4 blocks within the 128-bit lanes, then the lanes themselves.
        let mut t = [_mm512_setzero_ps(); 16];
        for i in 0..4 {
            let (a, b, c, d) = (r[4 * i], r[4 * i + 1], r[4 * i + 2], r[4 * i + 3]);
            let (ab_low, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            t[4 * i] = _mm512_shuffle_ps::<0x44>(ab_low, cd_low);
            t[4 * i + 1] = _mm512_shuffle_ps::<0xee>(ab_low, cd_low);
            t[4 * i + 2] = _mm512_shuffle_ps::<0x44>(ab_high, cd_high);
            t[4 * i + 3] = _mm512_shuffle_ps::<0xee>(ab_high, cd_high);
        }
        for j in 0..4 {
            let (a, b, c, d) = (t[j], t[4 + j], t[8 + j], t[12 + j]);
            let (ab_02, ab_13) = (
                _mm512_shuffle_f32x4::<0x88>(a, b),
                _mm512_shuffle_f32x4::<0xdd>(a, b),
            );
            let (cd_02, cd_13) = (
                _mm512_shuffle_f32x4::<0x88>(c, d),
                _mm512_shuffle_f32x4::<0xdd>(c, d),
            );
            let rows = [
                _mm512_shuffle_f32x4::<0x88>(ab_02, cd_02),
                _mm512_shuffle_f32x4::<0x88>(ab_13, cd_13),
                _mm512_shuffle_f32x4::<0xdd>(ab_02, cd_02),
                _mm512_shuffle_f32x4::<0xdd>(ab_13, cd_13),
            ];
            for (i, row) in rows.into_iter().enumerate() {
                _mm512_storeu_ps(to.add((4 * i + j) * to_stride), row);
            }
        }
    }
}
