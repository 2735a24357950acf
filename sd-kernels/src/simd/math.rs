//! Elementary functions on whole registers.
#![allow(
    clippy::excessive_precision,
    reason = "the coefficients are written as they were fitted"
)]

use super::Vector;

/// 2ˣ to 2e-7 relative; x below −126 gives 2⁻¹²⁶, above 127 gives 2¹²⁷.
#[inline(always)]
pub(crate) unsafe fn exp2<V: Vector>(x: V) -> V {
    // Minimax polynomial of degree 6 for 2ᶠ on [−½, ½].
    const POLYNOMIAL: [f32; 7] = [
        1.0,
        core::f32::consts::LN_2,
        0.240_226_46,
        0.055_503_286,
        0.009_618_489,
        0.001_339_993_1,
        0.000_153_458_11,
    ];
    let x = V::splat(127.0).min(V::splat(-126.0).max(x));
    let whole = x.round();
    polynomial(x.sub(whole), &POLYNOMIAL).scale_exp2(whole)
}

/// eˣ to a few units in the last place for x in [−87, 88]; saturates outside.
#[inline(always)]
pub(crate) unsafe fn exp<V: Vector>(x: V) -> V {
    // x·log₂e would lose the low bits of a large x: reduce with ln 2 in two parts instead.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const POLYNOMIAL: [f32; 7] = [
        1.0,
        1.0,
        0.499_999_92,
        0.166_664_2,
        0.041_668_233,
        0.008_374_899,
        0.001_383_674_2,
    ];
    let x = V::splat(88.0).min(V::splat(-87.3).max(x));
    let whole = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
    let rest = whole.neg_mul_add(V::splat(LN2_HIGH), x);
    let rest = whole.neg_mul_add(V::splat(LN2_LOW), rest);
    polynomial(rest, &POLYNOMIAL).scale_exp2(whole)
}

#[inline(always)]
unsafe fn polynomial<V: Vector, const N: usize>(x: V, coefficients: &[f32; N]) -> V {
    let mut y = V::splat(coefficients[N - 1]);
    for &c in coefficients[..N - 1].iter().rev() {
        y = y.mul_add(x, V::splat(c));
    }
    y
}

/// x·sigmoid(x).
#[inline(always)]
pub(crate) unsafe fn silu<V: Vector>(x: V) -> V {
    let e = exp(V::zero().sub(x));
    x.div(e.add(V::splat(1.0)))
}

/// x·sigmoid(1.702 x): CLIP's approximation of GELU.
#[inline(always)]
pub(crate) unsafe fn quick_gelu<V: Vector>(x: V) -> V {
    let e = exp(x.mul(V::splat(-1.702)));
    x.div(e.add(V::splat(1.0)))
}

/// x·Φ(x), the exact GELU, to 2e-7·|x|.
///
/// With h = ½·erfc(|x|/√2) it is max(x, 0) − |x|·h: no branch, and no cancellation in the tail.
/// erfcx(z) = e^(z²)·erfc(z) is smooth in t = 1/(1 + 0.4 z), as Abramowitz & Stegun 7.1.26 has it;
/// the polynomial here is a minimax fit of degree 9.
#[inline(always)]
pub(crate) unsafe fn gelu<V: Vector>(x: V) -> V {
    const POLYNOMIAL: [f32; 9] = [
        0.112_837_933,
        0.112_834_766,
        0.103_921_89,
        0.084_267_17,
        0.070_729_814,
        -0.002_832_803,
        0.084_576_376,
        -0.091_471_247,
        0.025_136_173,
    ];
    let positive = V::zero().max(x);
    let magnitude = x.max(V::zero().sub(x));
    let scaled = magnitude.mul_add(
        V::splat(0.4 * std::f32::consts::FRAC_1_SQRT_2),
        V::splat(1.0),
    );
    let t = V::splat(1.0).div(scaled);
    let erfcx = polynomial(t, &POLYNOMIAL).mul(t);
    let h = erfcx.mul(exp(x.mul(x).mul(V::splat(-0.5))));
    magnitude.neg_mul_add(h, positive)
}
