//! The transforms of Winograd's minimal filtering F(m, 3) (Lavin & Gray 2015, arXiv:1509.09308).
//!
//! A row of m outputs of a 3-tap filter is y = Aᵀ[(G g) ⊙ (Bᵀ d)] with m + 2 products in place of
//! 3 m. The matrices follow from a choice of m + 1 points (Toom–Cook) and the point at infinity; the
//! two-dimensional transform applies them to rows and columns.

use crate::simd::Vector;

/// F(m × m, 3 × 3), with `IN` = m + 2 and `OUT` = m.
pub(crate) trait Scheme<const IN: usize, const OUT: usize>: Copy + Sync + Send {
    /// G g: one number per product, of the three taps of a filter row.
    unsafe fn filter<V: Vector>(g: [V; 3]) -> [V; IN];
    /// Bᵀ d.
    unsafe fn input<V: Vector>(d: [V; IN]) -> [V; IN];
    /// Aᵀ m.
    unsafe fn output<V: Vector>(m: [V; IN]) -> [V; OUT];
}

/// `scale` · (g₀ + p g₁ + p² g₂) at the points p = `point` and p = −`point`.
#[inline(always)]
unsafe fn pair<V: Vector>(g: [V; 3], point: f64, scale: f64) -> [V; 2] {
    let even = V::splat(scale as f32).mul(g[0]);
    let even = V::splat((scale * point * point) as f32).mul_add(g[2], even);
    let odd = V::splat((scale * point) as f32).mul(g[1]);
    [even.add(odd), even.sub(odd)]
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
    #[inline(always)]
    unsafe fn filter<V: Vector>(g: [V; 3]) -> [V; 6] {
        let [plus_a, minus_a] = pair(g, A, 1.0 / (2.0 * A * A * (A * A - B * B)));
        let [plus_b, minus_b] = pair(g, B, 1.0 / (2.0 * B * B * (B * B - A * A)));
        [g[0], plus_a, minus_a, plus_b, minus_b, g[2]]
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
    #[inline(always)]
    unsafe fn filter<V: Vector>(g: [V; 3]) -> [V; 4] {
        let [plus, minus] = pair(g, 1.0, 0.5);
        [g[0], plus, minus, g[2]]
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

/// F(6×6, 3×3) on the points 0, ±1, ±2, ±½, ∞: five times fewer multiplications, and about four
/// times the rounding error of [`F4`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct F6;

/// The positive points of [`F6`].
const POINTS: [f64; 3] = [1.0, 2.0, 0.5];

impl Scheme<8, 6> for F6 {
    #[inline(always)]
    unsafe fn filter<V: Vector>(g: [V; 3]) -> [V; 8] {
        let [mut first, mut second] = [[V::zero(); 3]; 2];
        for i in 0..3 {
            let [p, q, r] = [POINTS[i], POINTS[(i + 1) % 3], POINTS[(i + 2) % 3]];
            let (p2, q2, r2) = (p * p, q * q, r * r);
            let scale = 1.0 / (2.0 * p2 * (p2 - q2) * (p2 - r2));
            [first[i], second[i]] = pair(g, p, scale);
        }
        [
            g[0], first[0], second[0], first[1], second[1], first[2], second[2], g[2],
        ]
    }

    #[inline(always)]
    unsafe fn input<V: Vector>(d: [V; 8]) -> [V; 8] {
        // (x² − 1)(x² − 4)(x² − ¼) = x⁶ − sum x⁴ + sum x² − 1.
        let sum = V::splat(21.0 / 4.0);
        let mut rows = [V::zero(); 8];
        rows[0] = sum.mul_add(d[4].sub(d[2]), d[0].sub(d[6]));
        rows[7] = sum.mul_add(d[3].sub(d[5]), d[7].sub(d[1]));
        for i in 0..3 {
            let [p, q, r] = [POINTS[i], POINTS[(i + 1) % 3], POINTS[(i + 2) % 3]];
            let squares = V::splat((q * q + r * r) as f32);
            let product = V::splat((q * q * r * r) as f32);
            let even = product.mul_add(d[2], squares.neg_mul_add(d[4], d[6]));
            let odd = product.mul_add(d[1], squares.neg_mul_add(d[3], d[5]));
            let p = V::splat(p as f32);
            rows[2 * i + 1] = p.mul_add(odd, even);
            rows[2 * i + 2] = p.neg_mul_add(odd, even);
        }
        rows
    }

    #[inline(always)]
    unsafe fn output<V: Vector>(m: [V; 8]) -> [V; 6] {
        let (even, odd) = (m[1].add(m[2]), m[1].sub(m[2]));
        let (even_2, odd_2) = (m[3].add(m[4]), m[3].sub(m[4]));
        let (even_half, odd_half) = (m[5].add(m[6]), m[5].sub(m[6]));
        let mut rows = [m[0].add(even), odd, even, odd, even, odd.add(m[7])];
        let mut power = 1.0f32;
        for (i, row) in rows.iter_mut().enumerate() {
            let (two, half) = if i % 2 == 0 {
                (even_2, even_half)
            } else {
                (odd_2, odd_half)
            };
            *row = V::splat(power).mul_add(two, V::splat(1.0 / power).mul_add(half, *row));
            power *= 2.0;
        }
        rows
    }
}
