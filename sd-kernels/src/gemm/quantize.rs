//! Rounding to ggml's blocks of 32 numbers.

use half::f16;

use crate::blocks::{Blocks, PART};

/// Writes the block of Q4_0, or else of Q8_0, whose numbers are nearest to `x` with the scale that
/// ggml chooses (`ggml-quants.c`), here divided by the scale as it is stored. A number that is not
/// finite makes the whole block NaN.
pub(super) fn quantize(blocks: Blocks, x: &[f32; PART], to: &mut [u8]) {
    debug_assert!(matches!(blocks, Blocks::Q8_0 | Blocks::Q4_0));
    let largest = x
        .iter()
        .copied()
        .fold(0.0f32, |a, b| match b.abs() > a.abs() {
            true => b,
            false => a,
        });
    let scale = match blocks {
        Blocks::Q4_0 => largest / -8.0,
        _ => largest.abs() / 127.0,
    };
    let finite = x.iter().all(|x| x.is_finite());
    let scale = match finite {
        true => f16::from_f32(scale.clamp(f16::MIN.to_f32(), f16::MAX.to_f32())),
        false => f16::NAN,
    };
    to[..2].copy_from_slice(&scale.to_le_bytes());
    let scale = scale.to_f32();
    let quant = |x: f32, low: f32, high: f32| match scale == 0.0 {
        true => 0.0,
        false => (x / scale).round().clamp(low, high),
    };
    match blocks {
        Blocks::Q4_0 => {
            let nibble = |x: f32| (quant(x, -8.0, 7.0) + 8.0) as u8;
            for (j, to) in to[2..].iter_mut().enumerate() {
                *to = nibble(x[j]) | nibble(x[j + PART / 2]) << 4;
            }
        }
        _ => {
            for (to, &x) in to[2..].iter_mut().zip(x) {
                *to = quant(x, -127.0, 127.0) as i8 as u8;
            }
        }
    }
}
