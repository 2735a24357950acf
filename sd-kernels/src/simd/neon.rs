use core::arch::aarch64::*;

use super::Vector;

/// Eight f32 in two 128-bit registers: with pairs a broadcast of A serves twice as many products.
#[derive(Clone, Copy)]
pub(crate) struct F32x8(float32x4_t, float32x4_t);

/// The bits of f32 whose upper halves are `x` as bf16.
#[inline(always)]
unsafe fn rounded(x: float32x4_t) -> uint32x4_t {
    let bits = vreinterpretq_u32_f32(x);
    let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
    let nearest = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    let sign = vandq_u32(bits, vdupq_n_u32(0x8000_0000));
    let small = vcltq_f32(vabsq_f32(x), vdupq_n_f32(f32::MIN_POSITIVE));
    let quiet = vorrq_u32(bits, vdupq_n_u32(0x40_0000));
    let found = vbslq_u32(small, sign, nearest);
    // A number equals itself.
    vbslq_u32(vceqq_f32(x, x), found, quiet)
}

/// The upper halves of `low` and `high`.
#[inline(always)]
unsafe fn upper_halves(low: uint32x4_t, high: uint32x4_t) -> uint16x8_t {
    vuzp2q_u16(vreinterpretq_u16_u32(low), vreinterpretq_u16_u32(high))
}

#[inline(always)]
unsafe fn pairs(first: float32x4_t, second: float32x4_t) -> uint32x4_t {
    vsriq_n_u32::<16>(rounded(second), rounded(first))
}

/// 2ⁿ: n + 127 in the exponent field.
#[inline(always)]
unsafe fn power(n: float32x4_t) -> float32x4_t {
    let biased = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
    vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
}

/// Rows of a 4×4 block as its columns.
#[inline(always)]
unsafe fn transposed([a, b, c, d]: [float32x4_t; 4]) -> [float32x4_t; 4] {
    let wide = |x| vreinterpretq_f64_f32(x);
    let (ab_even, ab_odd) = (wide(vtrn1q_f32(a, b)), wide(vtrn2q_f32(a, b)));
    let (cd_even, cd_odd) = (wide(vtrn1q_f32(c, d)), wide(vtrn2q_f32(c, d)));
    [
        vtrn1q_f64(ab_even, cd_even),
        vtrn1q_f64(ab_odd, cd_odd),
        vtrn2q_f64(ab_even, cd_even),
        vtrn2q_f64(ab_odd, cd_odd),
    ]
    .map(|x| vreinterpretq_f32_f64(x))
}

impl F32x8 {
    #[inline(always)]
    unsafe fn of_integers(wide: int16x8_t) -> Self {
        Self(
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))),
            vcvtq_f32_s32(vmovl_high_s16(wide)),
        )
    }
}

impl Vector for F32x8 {
    const LANES: usize = 8;
    // 6 × 2 accumulators, two columns of B and one broadcast: 29 of 32 registers.
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(vdupq_n_f32(x), vdupq_n_f32(x))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(vld1q_f32(from), vld1q_f32(from.add(4)))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        vst1q_f32(to, self.0);
        vst1q_f32(to.add(4), self.1);
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        let half = |from| vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
        Self(half(from), half(from.add(4)))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        let halves = vld1q_u16(from);
        let low = vshll_n_u16::<16>(vget_low_u16(halves));
        let high = vshll_high_n_u16::<16>(halves);
        Self(vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        Self::of_integers(vmovl_s8(vld1_s8(from)))
    }

    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> Self {
        Self(
            vcvtq_f32_s32(vld1q_s32(from)),
            vcvtq_f32_s32(vld1q_s32(from.add(4))),
        )
    }

    #[inline(always)]
    unsafe fn load_masked(from: *const u8, mask: u32) -> Self {
        let bits = vand_u8(vld1_u8(from), vdup_n_u8(mask as u8));
        Self::of_integers(vreinterpretq_s16_u16(vmovl_u8(bits)))
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8) {
        let whole = |x| vqmovn_s32(vcvtnq_s32_f32(x));
        vst1_s8(to, vqmovn_s16(vcombine_s16(whole(self.0), whole(self.1))));
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        vst1q_u16(to, upper_halves(rounded(self.0), rounded(self.1)));
    }

    #[inline(always)]
    unsafe fn store_pairs(first: Self, second: Self, to: *mut u32) {
        vst1q_u32(to, pairs(first.0, second.0));
        vst1q_u32(to.add(4), pairs(first.1, second.1));
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; 8];
        core::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
        Self::load(lanes.as_ptr())
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        let mut lanes = [0.0; 8];
        self.store(lanes.as_mut_ptr());
        core::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
    }

    // Its intrinsic is not stable.
    #[inline(always)]
    unsafe fn prefetch(from: *const f32) {
        core::arch::asm!("prfm pldl1keep, [{}]", in(reg) from, options(nostack, preserves_flags, readonly));
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(vaddq_f32(self.0, other.0), vaddq_f32(self.1, other.1))
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(vsubq_f32(self.0, other.0), vsubq_f32(self.1, other.1))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(vmulq_f32(self.0, other.0), vmulq_f32(self.1, other.1))
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(vdivq_f32(self.0, other.0), vdivq_f32(self.1, other.1))
    }

    // FMIN and FMAX would give NaN where either is.
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        let least = |a, b| vbslq_f32(vcltq_f32(a, b), a, b);
        Self(least(self.0, other.0), least(self.1, other.1))
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        let most = |a, b| vbslq_f32(vcgtq_f32(a, b), a, b);
        Self(most(self.0, other.0), most(self.1, other.1))
    }

    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        Self(vfmaq_f32(c.0, self.0, b.0), vfmaq_f32(c.1, self.1, b.1))
    }

    #[inline(always)]
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
        Self(vfmsq_f32(c.0, self.0, b.0), vfmsq_f32(c.1, self.1, b.1))
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(vrndnq_f32(self.0), vrndnq_f32(self.1))
    }

    #[inline(always)]
    unsafe fn scale_exp2(self, n: Self) -> Self {
        self.mul(Self(power(n.0), power(n.1)))
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for row in [0, 4] {
            for column in [0, 4] {
                let from = from.add(row * from_stride + column);
                let to = to.add(column * to_stride + row);
                let rows = core::array::from_fn(|i| vld1q_f32(from.add(i * from_stride)));
                for (i, column) in transposed(rows).into_iter().enumerate() {
                    vst1q_f32(to.add(i * to_stride), column);
                }
            }
        }
    }
}
