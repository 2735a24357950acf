//! One vector interface over the instruction sets, so that each kernel is written once.
//!
//! A kernel is a generic `#[inline(always)]` function over [`Vector`]; [`Isa::run`] calls it inside
//! a function compiled for the instruction set, and inlining turns every method into one
//! instruction.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod isa;
mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(test)]
mod tests;

pub use isa::Isa;
pub(crate) use isa::Kernel;
pub(crate) use math::{exp2, gelu, quick_gelu, silu};
#[cfg(target_arch = "x86_64")]
pub(crate) use {avx2::F32x8, avx512::F32x16};

/// A register of `LANES` f32.
///
/// # Safety
/// Every method may only run where the instruction set of the implementor is available (that is,
/// under [`Isa::run`]), and the pointers must be valid for the lanes that are read or written.
/// No alignment is required.
pub(crate) trait Vector: Copy {
    /// Number of f32 in a register: 4, 8 or 16.
    const LANES: usize;
    /// Rows of a matrix tile two registers wide whose accumulators still fit the register file.
    const ROWS: usize;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// From as many f16.
    unsafe fn load_f16(from: *const u16) -> Self;
    /// From as many bf16.
    unsafe fn load_bf16(from: *const u16) -> Self;
    /// From as many bytes with a sign.
    unsafe fn load_i8(from: *const i8) -> Self;
    /// From as many whole numbers.
    unsafe fn load_i32(from: *const i32) -> Self;
    /// From those bits of as many bytes that `mask` has.
    unsafe fn load_masked(from: *const u8, mask: u32) -> Self;
    /// As many whole numbers of at most 127: rounded to nearest even.
    unsafe fn store_i8(self, to: *mut i8);
    /// As many bf16: rounded to nearest even, numbers too small for a normal f32 as zero.
    unsafe fn store_bf16(self, to: *mut u16);
    /// As many pairs of bf16, a lane of `first` in the low half and one of `second` in the high,
    /// rounded as [`store_bf16`](Self::store_bf16) does.
    unsafe fn store_pairs(first: Self, second: Self, to: *mut u32);
    /// The first `count` ≤ `LANES` lanes from memory, zero in the others.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;
    unsafe fn store_first(self, to: *mut f32, count: usize);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `other` where either is NaN, so that a bound on the left keeps a NaN.
    unsafe fn min(self, other: Self) -> Self;
    /// `other` where either is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// `self · b + c`.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// `c − self · b`.
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self;
    /// To the nearest integer.
    unsafe fn round(self) -> Self;
    /// `self · 2ⁿ` for integral `n` in [-126, 127].
    unsafe fn scale_exp2(self, n: Self) -> Self;
    /// The `LANES` × `LANES` block at `from`, transposed to `to`; strides in f32.
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);

    /// Asks for a line that will be read soon. Any address will do.
    unsafe fn prefetch(from: *const f32);

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self::splat(0.0)
    }

    /// [`Vector::load`] or [`Vector::load_first`].
    #[inline(always)]
    unsafe fn load_up_to(from: *const f32, count: usize) -> Self {
        if count == Self::LANES {
            Self::load(from)
        } else {
            Self::load_first(from, count)
        }
    }

    #[inline(always)]
    unsafe fn store_up_to(self, to: *mut f32, count: usize) {
        if count == Self::LANES {
            self.store(to);
        } else {
            self.store_first(to, count);
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut lanes = [0.0f32; 16];
        self.store(lanes.as_mut_ptr());
        let mut width = Self::LANES;
        while width > 1 {
            width /= 2;
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
        }
        lanes[0]
    }
}
