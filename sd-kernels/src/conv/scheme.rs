//! The transforms of Winograd's minimal filtering F(m, 3) (Lavin & Gray 2015, arXiv:1509.09308).
//!
//! A row of m outputs of a 3-tap filter is y = Aᵀ[(G g) ⊙ (Bᵀ d)] with m + 2 products in place of
//! 3 m. The matrices follow from a choice of m + 1 points (Toom–Cook) and the point at infinity; the
//! two-dimensional transform applies them to rows and columns.

use crate::simd::Vector;

/// F(m × m, 3 × 3), with `IN` = m + 2 and `OUT` = m.
pub(crate) trait Scheme<const IN: usize, const OUT: usize>: Copy + Sync + Send {
    /// G: one row per product, on the three taps of a filter row.
    fn filter() -> [[f64; 3]; IN];
    /// Bᵀ d.
    unsafe fn input<V: Vector>(d: [V; IN]) -> [V; IN];
    /// Aᵀ m.
    unsafe fn output<V: Vector>(m: [V; IN]) -> [V; OUT];
}

/// F(4×4, 3×3) on the points 0, ±⅔, ±3⁄2, ∞.
///
/// The usual 0, ±1, ±2 lose four bits of f32; points whose powers stay near one lose two, and
/// with ⅔·3⁄2 = 1 two of the multiplications vanish.
#[derive(Clone, Copy, Debug)]
pub(crate) struct F4;

const A: f64 = 2.0 / 3.0;
const B: f64 = 3.0 / 2.0;

impl Scheme<6, 4> for F4 {
    fn filter() -> [[f64; 3]; 6] {
        let row = |point: f64, other: f64| {
            let scale = 1.0 / (2.0 * point * point * (point * point - other * other));
            [scale, scale * point, scale * point * point]
        };
        [
            [1.0, 0.0, 0.0],
            row(A, B),
            row(-A, B),
            row(B, A),
            row(-B, A),
            [0.0, 0.0, 1.0],
        ]
    }

    #[inline(always)]
    unsafe fn input<V: Vector>(d: [V; 6]) -> [V; 6] {
        let (a, b) = (V::splat(A as f32), V::splat(B as f32));
        let (a2, b2) = (V::splat((A * A) as f32), V::splat((B * B) as f32));
        let sum = V::splat((A * A + B * B) as f32);
        let (even_a, odd_a) = (b2.neg_mul_add(d[2], d[4]), b2.neg_mul_add(d[1], d[3]));
        let (even_b, odd_b) = (a2.neg_mul_add(d[2], d[4]), a2.neg_mul_add(d[1], d[3]));
        [
            sum.neg_mul_add(d[2], d[0].add(d[4])),
            a.mul_add(odd_a, even_a),
            a.neg_mul_add(odd_a, even_a),
            b.mul_add(odd_b, even_b),
            b.neg_mul_add(odd_b, even_b),
            sum.neg_mul_add(d[3], d[1].add(d[5])),
        ]
    }

    #[inline(always)]
    unsafe fn output<V: Vector>(m: [V; 6]) -> [V; 4] {
        let (even_a, odd_a) = (m[1].add(m[2]), m[1].sub(m[2]));
        let (even_b, odd_b) = (m[3].add(m[4]), m[3].sub(m[4]));
        let (a2, b2) = (V::splat((A * A) as f32), V::splat((B * B) as f32));
        let (odd_a, odd_b) = (odd_a.mul(V::splat(A as f32)), odd_b.mul(V::splat(B as f32)));
        [
            m[0].add(even_a).add(even_b),
            odd_a.add(odd_b),
            a2.mul_add(even_a, b2.mul(even_b)),
            a2.mul_add(odd_a, b2.mul_add(odd_b, m[5])),
        ]
    }
}

/// F(2×2, 3×3) on the points 0, ±1, ∞: exact coefficients, as accurate as the direct sum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct F2;

impl Scheme<4, 2> for F2 {
    fn filter() -> [[f64; 3]; 4] {
        [
            [1.0, 0.0, 0.0],
            [0.5, 0.5, 0.5],
            [0.5, -0.5, 0.5],
            [0.0, 0.0, 1.0],
        ]
    }

    #[inline(always)]
    unsafe fn input<V: Vector>(d: [V; 4]) -> [V; 4] {
        [
            d[0].sub(d[2]),
            d[2].add(d[1]),
            d[2].sub(d[1]),
            d[3].sub(d[1]),
        ]
    }

    #[inline(always)]
    unsafe fn output<V: Vector>(m: [V; 4]) -> [V; 2] {
        [m[0].add(m[1]).add(m[2]), m[1].sub(m[2]).add(m[3])]
    }
}
