use super::Vector;

/// Four f32 in plain Rust: one SSE or NEON register where the compiler finds it.
#[derive(Clone, Copy)]
pub(crate) struct F32x4([f32; 4]);

#[inline(always)]
fn zip(a: F32x4, b: F32x4, f: impl Fn(f32, f32) -> f32) -> F32x4 {
    F32x4(std::array::from_fn(|i| f(a.0[i], b.0[i])))
}

/// The bits of an f32 whose upper half is `x` as bf16.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() {
        bits | 0x40_0000
    } else if x.abs() < f32::MIN_POSITIVE {
        bits & 0x8000_0000
    } else {
        bits + 0x7fff + (bits >> 16 & 1)
    }
}

impl Vector for F32x4 {
    const LANES: usize = 4;
    // 4 × 2 accumulators: half of sixteen registers, as a broadcast takes one more here.
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(from.cast::<[f32; 4]>().read_unaligned())
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        to.cast::<[f32; 4]>().write_unaligned(self.0);
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        let halves = from.cast::<[u16; 4]>().read_unaligned();
        Self(halves.map(|bits| half::f16::from_bits(bits).to_f32_const()))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        let halves = from.cast::<[u16; 4]>().read_unaligned();
        Self(halves.map(|bits| f32::from_bits(u32::from(bits) << 16)))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        Self(from.cast::<[i8; 4]>().read_unaligned().map(f32::from))
    }

    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> Self {
        Self(from.cast::<[i32; 4]>().read_unaligned().map(|x| x as f32))
    }

    #[inline(always)]
    unsafe fn load_masked(from: *const u8, mask: u32) -> Self {
        let bytes = from.cast::<[u8; 4]>().read_unaligned();
        Self(bytes.map(|byte| (u32::from(byte) & mask) as f32))
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8) {
        let whole = self.round().0.map(|x| x as i8);
        to.cast::<[i8; 4]>().write_unaligned(whole);
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        let halves = self.0.map(|x| (rounded(x) >> 16) as u16);
        to.cast::<[u16; 4]>().write_unaligned(halves);
    }

    #[inline(always)]
    unsafe fn store_pairs(first: Self, second: Self, to: *mut u32) {
        let pair = |i: usize| rounded(first.0[i]) >> 16 | rounded(second.0[i]) & 0xffff_0000;
        to.cast::<[u32; 4]>()
            .write_unaligned(std::array::from_fn(pair));
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; 4];
        for (i, lane) in lanes.iter_mut().enumerate().take(count) {
            *lane = *from.add(i);
        }
        Self(lanes)
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        for (i, lane) in self.0.iter().enumerate().take(count) {
            *to.add(i) = *lane;
        }
    }

    #[inline(always)]
    unsafe fn prefetch(_from: *const f32) {}

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        zip(self, other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        zip(self, other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        zip(self, other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        zip(self, other, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        zip(self, other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        zip(self, other, |a, b| if a > b { a } else { b })
    }

    // Two roundings: without hardware FMA `f32::mul_add` is a call per lane.
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        self.mul(b).add(c)
    }

    #[inline(always)]
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
        c.sub(self.mul(b))
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        // Adding 1.5·2²³ leaves no bits for the fraction; good for |x| < 2²², which `exp` ensures.
        const MAGIC: f32 = 12_582_912.0;
        Self(self.0.map(|x| (x + MAGIC) - MAGIC))
    }

    #[inline(always)]
    unsafe fn scale_exp2(self, n: Self) -> Self {
        zip(self, n, |x, n| {
            x * f32::from_bits(((n as i32 + 127) as u32) << 23)
        })
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for i in 0..4 {
            for j in 0..4 {
                *to.add(j * to_stride + i) = *from.add(i * from_stride + j);
            }
        }
    }
}
