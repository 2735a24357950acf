//! NEON, of every 64-bit ARM processor.

use core::arch::aarch64::*;
use core::arch::asm;

use super::Vector;

/// Four f32 in a 128-bit register.
#[derive(Clone, Copy)]
pub(crate) struct F32x4(float32x4_t);

/// The bits of f32 whose upper halves are `x` as bf16.
#[inline(always)]
unsafe fn rounded(x: float32x4_t) -> uint32x4_t {
    let bits = vreinterpretq_u32_f32(x);
    let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
    let nearest = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    let small = vcltq_f32(vabsq_f32(x), vdupq_n_f32(f32::MIN_POSITIVE));
    let sign = vandq_u32(bits, vdupq_n_u32(0x8000_0000));
    let found = vbslq_u32(small, sign, nearest);
    let is_number = vceqq_f32(x, x);
    vbslq_u32(is_number, found, vorrq_u32(bits, vdupq_n_u32(0x40_0000)))
}

/// Four bytes in the low lanes.
#[inline(always)]
unsafe fn bytes(from: *const u8) -> uint8x8_t {
    vreinterpret_u8_u32(vdup_n_u32(from.cast::<u32>().read_unaligned()))
}

impl Vector for F32x4 {
    const LANES: usize = 4;
    // 12 × 2 accumulators and two columns of B leave six of 32 registers for broadcasts.
    const ROWS: usize = 12;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(vdupq_n_f32(x))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(vld1q_f32(from))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        vst1q_f32(to, self.0);
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        Self(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from))))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        let wide = vmovl_u16(vld1_u16(from));
        Self(vreinterpretq_f32_u32(vshlq_n_u32::<16>(wide)))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        let wide = vmovl_s8(vreinterpret_s8_u8(bytes(from.cast())));
        Self(vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))))
    }

    #[inline(always)]
    unsafe fn load_masked(from: *const u8, mask: u32) -> Self {
        let wide = vmovl_u16(vget_low_u16(vmovl_u8(bytes(from))));
        Self(vcvtq_f32_u32(vandq_u32(wide, vdupq_n_u32(mask))))
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        vst1_u16(to, vshrn_n_u32::<16>(rounded(self.0)));
    }

    #[inline(always)]
    unsafe fn store_pairs(first: Self, second: Self, to: *mut u32) {
        let low = vshrq_n_u32::<16>(rounded(first.0));
        let high = vandq_u32(rounded(second.0), vdupq_n_u32(0xffff_0000));
        vst1q_u32(to, vorrq_u32(low, high));
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; 4];
        for (i, lane) in lanes.iter_mut().enumerate().take(count) {
            *lane = *from.add(i);
        }
        Self::load(lanes.as_ptr())
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        let mut lanes = [0.0; 4];
        self.store(lanes.as_mut_ptr());
        for (i, lane) in lanes.iter().enumerate().take(count) {
            *to.add(i) = *lane;
        }
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const f32) {
        // The intrinsic is not stable yet.
        asm!(
            "prfm pldl1keep, [{from}]",
            from = in(reg) from,
            options(nostack, preserves_flags, readonly),
        );
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(vaddq_f32(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(vsubq_f32(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(vmulq_f32(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(vdivq_f32(self.0, other.0))
    }

    // By comparison: the instructions for the smaller and the larger treat NaN otherwise.
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self(vbslq_f32(vcltq_f32(self.0, other.0), self.0, other.0))
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self(vbslq_f32(vcgtq_f32(self.0, other.0), self.0, other.0))
    }

    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        Self(vfmaq_f32(c.0, self.0, b.0))
    }

    #[inline(always)]
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
        Self(vfmsq_f32(c.0, self.0, b.0))
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(vrndnq_f32(self.0))
    }

    #[inline(always)]
    unsafe fn scale_exp2(self, n: Self) -> Self {
        // 2ⁿ is n + 127 in the exponent field.
        let biased = vaddq_s32(vcvtq_s32_f32(n.0), vdupq_n_s32(127));
        let power = vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased));
        Self(vmulq_f32(self.0, power))
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        let row = |i: usize| vld1q_f32(from.add(i * from_stride));
        let (a, b, c, d) = (row(0), row(1), row(2), row(3));
        // Pairs of columns, of which each has two rows' halves.
        let pairs = |x, y| {
            let [even, odd] = [vtrn1q_f32(x, y), vtrn2q_f32(x, y)];
            [even, odd].map(|x| vreinterpretq_f64_f32(x))
        };
        let ([ab_even, ab_odd], [cd_even, cd_odd]) = (pairs(a, b), pairs(c, d));
        let columns = [
            vtrn1q_f64(ab_even, cd_even),
            vtrn1q_f64(ab_odd, cd_odd),
            vtrn2q_f64(ab_even, cd_even),
            vtrn2q_f64(ab_odd, cd_odd),
        ];
        for (j, column) in columns.into_iter().enumerate() {
            vst1q_f32(to.add(j * to_stride), vreinterpretq_f32_f64(column));
        }
    }
}
