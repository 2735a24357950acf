//! The products of bf16 in plain Rust, rounding for rounding as the manual has the instructions
//! (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, VDPBF16PS and
//! TDPBF16PS): fused multiply-adds rounded to nearest even, of which results too small for a normal
//! f32, and such sums, are zero.

use super::{PAIRED, Shifted, Sums, Unit, finish_rows};
use crate::gemm::{Ahead, Finish};
use crate::simd::Vector;

/// Rows of a tile.
pub(super) const ROWS: usize = 4;

/// As VDPBF16PS: each pair's second product is added to the sum, then its first.
#[derive(Clone, Copy)]
pub(super) struct Pairs;

/// As TDPBF16PS: of each line, the sums of first and of second products by themselves, then both
/// together to the sum.
#[derive(Clone, Copy)]
pub(super) struct Tiles;

impl Pairs {
    pub(super) const DEPTH: usize = super::PAIRED * 40;
}

impl Tiles {
    pub(super) const DEPTH: usize = super::PAIRED * 40;
}

/// `x`, or a zero of its sign where it is smaller than any normal f32.
#[inline(always)]
fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE {
        0.0f32.copysign(x)
    } else {
        x
    }
}

#[inline(always)]
fn multiply_add(a: f32, b: f32, sum: f32) -> f32 {
    flush(a.mul_add(b, sum))
}

/// A pair's first and second number.
#[inline(always)]
fn numbers(pair: u32) -> [f32; 2] {
    [
        f32::from_bits(pair << 16),
        f32::from_bits(pair & 0xffff_0000),
    ]
    .map(flush)
}

/// What one line, 16 pairs, adds to a sum.
trait Line {
    fn add(sum: f32, pairs: [([f32; 2], [f32; 2]); PAIRED / 2]) -> f32;
}

impl Line for Pairs {
    #[inline(always)]
    fn add(mut sum: f32, pairs: [([f32; 2], [f32; 2]); PAIRED / 2]) -> f32 {
        for (a, b) in pairs {
            sum = multiply_add(a[1], b[1], sum);
            sum = multiply_add(a[0], b[0], sum);
        }
        sum
    }
}

impl Line for Tiles {
    #[inline(always)]
    fn add(sum: f32, pairs: [([f32; 2], [f32; 2]); PAIRED / 2]) -> f32 {
        let mut both = [0.0; 2];
        for (a, b) in pairs {
            for (i, both) in both.iter_mut().enumerate() {
                *both = multiply_add(a[i], b[i], *both);
            }
        }
        flush(sum + flush(both[0] + both[1]))
    }
}

/// A line rounded by the registers of `V`.
#[inline(always)]
unsafe fn line<V: Vector>(from: *const f32, count: usize, to: *mut f32) {
    for i in (0..PAIRED).step_by(V::LANES) {
        let x = if i + V::LANES <= count {
            V::load(from.add(i))
        } else if i < count {
            V::load_first(from.add(i), count - i)
        } else {
            V::zero()
        };
        x.store_bf16(to.cast::<u16>().add(i));
    }
}

#[inline(always)]
unsafe fn tile<V: Vector, L: Line, F: Finish>(
    rows: usize,
    registers: usize,
    k: usize,
    [a, b]: [*const f32; 2],
    at: (usize, usize),
    finish: F,
) {
    let width = 2 * V::LANES;
    let (a, b) = (a.cast::<u32>(), b.cast::<u32>());
    let mut sums = Sums::new();
    let to = sums.as_mut_ptr().cast::<f32>();
    for r in 0..rows {
        for column in 0..width {
            let mut sum = 0.0;
            for l in 0..k.div_ceil(PAIRED) {
                let (a, b) = (a.add((l * rows + r) * 16), b.add(l * 16 * width + column));
                let pair = |i| (numbers(*a.add(i)), numbers(*b.add(i * width)));
                sum = L::add(sum, std::array::from_fn(pair));
            }
            *to.add(r * width + column) = sum;
        }
    }
    finish_rows::<V, F>(rows, registers, to, at, finish);
}

#[inline(always)]
unsafe fn shifted<V: Vector, L: Line>(
    rows: usize,
    a: Shifted,
    b: *const f32,
    to: *mut f32,
    more: bool,
) {
    let width = 2 * V::LANES;
    for r in 0..rows {
        for column in 0..width {
            let to = to.add(r * width + column);
            let mut sum = if more { *to } else { 0.0 };
            for i in 0..a.count {
                let mut b = b.add(i * a.panel).cast::<u32>().add(column);
                let pixel = a.from.add(r * a.pitch + *a.offsets.add(i)).cast::<u32>();
                for l in 0..a.lines {
                    let pair = |i| {
                        (
                            numbers(*pixel.add(l * a.step + i)),
                            numbers(*b.add(i * width)),
                        )
                    };
                    sum = L::add(sum, std::array::from_fn(pair));
                    b = b.add(16 * width);
                }
            }
            *to = sum;
        }
    }
}

macro_rules! units {
    ($($unit:ty, $fills:literal);*) => {$(
        impl<V: Vector> Unit<V> for $unit {
            const TERMS: usize = PAIRED;
            const ROWS: usize = ROWS;
            const FILLS: bool = $fills;

            #[inline(always)]
            unsafe fn line(from: *const f32, count: usize, to: *mut f32) {
                line::<V>(from, count, to);
            }

            #[inline(always)]
            unsafe fn tile<F: Finish>(
                rows: usize,
                registers: usize,
                k: usize,
                ab: [*const f32; 2],
                _scales: [*const f32; 2],
                _ahead: Ahead,
                at: (usize, usize),
                finish: F,
            ) {
                tile::<V, $unit, F>(rows, registers, k, ab, at, finish);
            }

            #[inline(always)]
            unsafe fn shifted(
                rows: usize,
                a: Shifted,
                b: *const f32,
                _ahead: Ahead,
                to: *mut f32,
                more: bool,
            ) {
                shifted::<V, $unit>(rows, a, b, to, more);
            }
        }
    )*};
}

units!(Pairs, false; Tiles, true);
