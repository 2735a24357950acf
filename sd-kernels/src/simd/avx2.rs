use core::arch::x86_64::*;

use super::Vector;

/// Eight f32 in a 256-bit register.
#[derive(Clone, Copy)]
pub(crate) struct F32x8(__m256);

#[inline(always)]
unsafe fn mask(count: usize) -> __m256i {
    let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lane)
}

/// The bits of f32 whose upper halves are `x` as bf16.
#[inline(always)]
unsafe fn rounded(x: __m256) -> __m256i {
    let bits = _mm256_castps_si256(x);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    let nearest = _mm256_castsi256_ps(_mm256_add_epi32(bits, half));
    let sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0));
    let size = _mm256_andnot_ps(_mm256_set1_ps(-0.0), x);
    let small = _mm256_cmp_ps::<_CMP_LT_OQ>(size, _mm256_set1_ps(f32::MIN_POSITIVE));
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
    let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x);
    let found = _mm256_blendv_ps(nearest, sign, small);
    _mm256_castps_si256(_mm256_blendv_ps(found, _mm256_castsi256_ps(quiet), nan))
}

impl Vector for F32x8 {
    const LANES: usize = 8;
    // 6 × 2 accumulators, two columns of B and one broadcast: 15 of 16 registers.
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(_mm256_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(_mm256_loadu_ps(from))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        _mm256_storeu_ps(to, self.0);
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        Self(_mm256_cvtph_ps(_mm_loadu_si128(from.cast())))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
        Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        let wide = _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()));
        Self(_mm256_cvtepi32_ps(wide))
    }

    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> Self {
        Self(_mm256_cvtepi32_ps(_mm256_loadu_si256(from.cast())))
    }

    #[inline(always)]
    unsafe fn load_masked(from: *const u8, mask: u32) -> Self {
        let wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()));
        let bits = _mm256_and_si256(wide, _mm256_set1_epi32(mask as i32));
        Self(_mm256_cvtepi32_ps(bits))
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8) {
        let whole = _mm256_cvtps_epi32(self.0);
        let (low, high) = (
            _mm256_castsi256_si128(whole),
            _mm256_extracti128_si256::<1>(whole),
        );
        let words = _mm_packs_epi32(low, high);
        _mm_storel_epi64(to.cast(), _mm_packs_epi16(words, words));
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        let upper = _mm256_srli_epi32::<16>(rounded(self.0));
        let (low, high) = (
            _mm256_castsi256_si128(upper),
            _mm256_extracti128_si256::<1>(upper),
        );
        _mm_storeu_si128(to.cast(), _mm_packus_epi32(low, high));
    }

    #[inline(always)]
    unsafe fn store_pairs(first: Self, second: Self, to: *mut u32) {
        let low = _mm256_srli_epi32::<16>(rounded(first.0));
        let pairs = _mm256_blend_epi16::<0b1010_1010>(low, rounded(second.0));
        _mm256_storeu_si256(to.cast(), pairs);
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        Self(_mm256_maskload_ps(from, mask(count)))
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        _mm256_maskstore_ps(to, mask(count), self.0);
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const f32) {
        _mm_prefetch::<_MM_HINT_T0>(from.cast());
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(_mm256_add_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(_mm256_sub_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(_mm256_mul_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(_mm256_div_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self(_mm256_min_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self(_mm256_max_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        Self(_mm256_fmadd_ps(self.0, b.0, c.0))
    }

    #[inline(always)]
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
        Self(_mm256_fnmadd_ps(self.0, b.0, c.0))
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(_mm256_round_ps::<
            { _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC },
        >(self.0))
    }

    #[inline(always)]
    unsafe fn scale_exp2(self, n: Self) -> Self {
        // 2ⁿ is n + 127 in the exponent field.
        let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n.0), _mm256_set1_epi32(127));
        let power = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased));
        Self(_mm256_mul_ps(self.0, power))
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        let mut r = [_mm256_setzero_ps(); 8];
        for (i, r) in r.iter_mut().enumerate() {
            *r = _mm256_loadu_ps(from.add(i * from_stride));
        }
        // 4×4 blocks within the 128-bit lanes, then the lanes themselves.
        let mut t = [_mm256_setzero_ps(); 8];
        for i in 0..2 {
            let (a, b, c, d) = (r[4 * i], r[4 * i + 1], r[4 * i + 2], r[4 * i + 3]);
            let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            t[4 * i] = _mm256_shuffle_ps::<0x44>(ab_low, cd_low);
            t[4 * i + 1] = _mm256_shuffle_ps::<0xee>(ab_low, cd_low);
            t[4 * i + 2] = _mm256_shuffle_ps::<0x44>(ab_high, cd_high);
            t[4 * i + 3] = _mm256_shuffle_ps::<0xee>(ab_high, cd_high);
        }
        for j in 0..4 {
            let low = _mm256_permute2f128_ps::<0x20>(t[j], t[4 + j]);
            let high = _mm256_permute2f128_ps::<0x31>(t[j], t[4 + j]);
            _mm256_storeu_ps(to.add(j * to_stride), low);
            _mm256_storeu_ps(to.add((4 + j) * to_stride), high);
        }
    }
}
