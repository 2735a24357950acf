//! torch's CPU random generator, number for number.

use std::f32::consts::TAU as TAU_F32;
use std::f64::consts::TAU;

const N: usize = 624;
const M: usize = 397;

/// `torch.Generator("cpu")`: MT19937 (Matsumoto & Nishimura 1998) with torch's own ways of
/// turning its words into normal numbers, of which there are two: blocks of sixteen by
/// Box–Muller in f32 from 16 numbers on, and one pair at a time in f64 below, the second of the
/// pair kept for the next such call.
#[derive(Clone)]
pub struct TorchRng {
    state: [u32; N],
    next: usize,
    spare: Option<f64>,
}

impl TorchRng {
    /// `torch.Generator("cpu").manual_seed(seed)`; like there, only the low 32 bits count.
    pub fn new(seed: u64) -> Self {
        let mut state = [0u32; N];
        state[0] = seed as u32;
        for i in 1..N {
            let previous = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = previous.wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self {
            state,
            next: N,
            spare: None,
        }
    }

    /// `torch.randn(count, generator=self)` in float32.
    pub fn randn(&mut self, count: usize) -> Vec<f32> {
        if count < 16 {
            return (0..count).map(|_| self.normal_f64() as f32).collect();
        }
        let mut values = self.uniforms(count);
        let whole = count - count % 16;
        box_muller(&mut values[..whole]);
        // A tail that does not fill a block is not filled on its own: torch draws the last
        // sixteen numbers anew, over what already stood there.
        if !count.is_multiple_of(16) {
            let mut last: [f32; 16] = std::array::from_fn(|_| self.uniform_f32());
            box_muller(&mut last);
            values[count - 16..].copy_from_slice(&last);
        }
        values
    }

    /// The next 32-bit word of MT19937.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        self.next += 1;
        temper(self.state[self.next - 1])
    }

    /// The state's next 624 words. In three loops without a modulo, which the compiler turns into
    /// vector instructions.
    fn twist(&mut self) {
        let s = &mut self.state;
        let next = |a: u32, b: u32, far: u32| {
            let y = (a & 0x8000_0000) | (b & 0x7fff_ffff);
            far ^ (y >> 1) ^ ((y & 1).wrapping_neg() & 0x9908_b0df)
        };
        for i in 0..N - M {
            s[i] = next(s[i], s[i + 1], s[i + M]);
        }
        for i in N - M..N - 1 {
            s[i] = next(s[i], s[i + 1], s[i + M - N]);
        }
        s[N - 1] = next(s[N - 1], s[0], s[M - 1]);
        self.next = 0;
    }

    /// Uniform in `[0, 1)` with 24 bits.
    fn uniform_f32(&mut self) -> f32 {
        unit(self.next_u32())
    }

    /// The next `count` of them, a whole state at a time.
    fn uniforms(&mut self, count: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(count);
        while values.len() < count {
            if self.next == N {
                self.twist();
            }
            let taken = (N - self.next).min(count - values.len());
            let words = &self.state[self.next..self.next + taken];
            values.extend(words.iter().map(|&word| unit(temper(word))));
            self.next += taken;
        }
        values
    }

    /// Uniform in `[0, 1)` with 53 bits; the first word is the high half.
    fn uniform_f64(&mut self) -> f64 {
        let word = (u64::from(self.next_u32()) << 32) | u64::from(self.next_u32());
        (word & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    fn normal_f64(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (u1, u2) = (self.uniform_f64(), self.uniform_f64());
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let (sin, cos) = (TAU * u1).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }
}

/// MT19937's output function.
fn temper(mut y: u32) -> u32 {
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c_5680;
    y ^= (y << 15) & 0xefc6_0000;
    y ^ (y >> 18)
}

fn unit(word: u32) -> f32 {
    (word & 0x00ff_ffff) as f32 / 16_777_216.0
}

/// Blocks of sixteen uniforms, eight for the radii and eight for the angles, to as many normals. The
/// roundings to f32 are torch's: an angle rounded elsewhere would be off by 2e-6 in the result.
///
/// It goes by many blocks at once through loops without a branch, which the compiler turns into
/// vector instructions: noise is most of what a solver with a Brownian path costs.
fn box_muller(values: &mut [f32]) {
    const BLOCKS: usize = 16;
    let mut u = [0.0f32; 8 * BLOCKS];
    let mut v = [0.0f32; 8 * BLOCKS];
    let (mut sin, mut cos) = ([0.0f64; 8 * BLOCKS], [0.0f64; 8 * BLOCKS]);
    for chunk in values.chunks_mut(16 * BLOCKS) {
        let count = chunk.len() / 2;
        for (k, block) in chunk.as_chunks::<16>().0.iter().enumerate() {
            u[8 * k..8 * k + 8].copy_from_slice(&block[..8]);
            v[8 * k..8 * k + 8].copy_from_slice(&block[8..]);
        }
        for u in &mut u[..count] {
            *u = (-2.0 * ln(1.0 - *u)).sqrt();
        }
        let angles = v[..count].iter().zip(&mut sin).zip(&mut cos);
        for ((v, sin), cos) in angles {
            (*sin, *cos) = sin_cos(f64::from(TAU_F32 * *v));
        }
        for (k, block) in chunk.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            for j in 0..8 {
                let radius = f64::from(u[8 * k + j]);
                block[j] = (radius * cos[8 * k + j]) as f32;
                block[j + 8] = (radius * sin[8 * k + j]) as f32;
            }
        }
    }
}

/// The natural logarithm of a normal f32 above 0, correctly rounded: the exponent, and the series of
/// `2 artanh` for what remains between √½ and √2.
fn ln(x: f32) -> f32 {
    // The bits of √½, from which on the exponent counts.
    const HALF_ROOT: u32 = 0x3f35_04f3;
    const SERIES: [f64; 8] = [
        1.0 / 15.0,
        1.0 / 13.0,
        1.0 / 11.0,
        1.0 / 9.0,
        1.0 / 7.0,
        1.0 / 5.0,
        1.0 / 3.0,
        1.0,
    ];
    let shifted = x.to_bits().wrapping_sub(HALF_ROOT);
    let exponent = (shifted as i32) >> 23;
    let mantissa = f32::from_bits((shifted & 0x007f_ffff).wrapping_add(HALF_ROOT));
    let m = f64::from(mantissa);
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    let series = SERIES.iter().fold(1.0 / 17.0, |sum, c| sum * s2 + c);
    (2.0 * s * series + f64::from(exponent) * std::f64::consts::LN_2) as f32
}

/// Sine and cosine of an angle from 0 to 2π, to 1e-13: Taylor's series in the quarter turn around
/// the nearest multiple of a right angle.
fn sin_cos(x: f64) -> (f64, f64) {
    // Added to a number, it leaves the nearest whole one in the last bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const SIN: [f64; 7] = [
        1.0 / 6_227_020_800.0,
        -1.0 / 39_916_800.0,
        1.0 / 362_880.0,
        -1.0 / 5040.0,
        1.0 / 120.0,
        -1.0 / 6.0,
        1.0,
    ];
    const COS: [f64; 8] = [
        -1.0 / 87_178_291_200.0,
        1.0 / 479_001_600.0,
        -1.0 / 3_628_800.0,
        1.0 / 40_320.0,
        -1.0 / 720.0,
        1.0 / 24.0,
        -1.0 / 2.0,
        1.0,
    ];
    let rounded = x * std::f64::consts::FRAC_2_PI + ROUND;
    let quarter = rounded.to_bits();
    let r = x - (rounded - ROUND) * std::f64::consts::FRAC_PI_2;
    let r2 = r * r;
    let sin = r * SIN
        .iter()
        .fold(-1.0 / 1_307_674_368_000.0, |sum, c| sum * r2 + c);
    let cos = COS
        .iter()
        .fold(1.0 / 20_922_789_888_000.0, |sum, c| sum * r2 + c);
    // An odd number of quarters swaps the two, the second and third turn signs.
    let odd = (quarter & 1).wrapping_neg();
    let (sin, cos) = (sin.to_bits(), cos.to_bits());
    let (a, b) = ((sin & !odd) | (cos & odd), (cos & !odd) | (sin & odd));
    let sin_sign = (quarter & 2) << 62;
    let cos_sign = (quarter.wrapping_add(1) & 2) << 62;
    (f64::from_bits(a ^ sin_sign), f64::from_bits(b ^ cos_sign))
}

impl std::fmt::Debug for TorchRng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TorchRng").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{ln, sin_cos};

    #[test]
    fn the_functions_are_the_standard_librarys() {
        for i in 1..=1u32 << 16 {
            let u = (i * 256) as f32 / 16_777_216.0;
            assert_eq!(ln(u), f64::from(u).ln() as f32, "ln {u}");
            let x = f64::from(u) * std::f64::consts::TAU;
            let ((a, b), (c, d)) = (sin_cos(x), x.sin_cos());
            assert!(
                (a - c).abs() < 1e-12 && (b - d).abs() < 1e-12,
                "{x}: {a} {c}, {b} {d}"
            );
        }
        let least = 1.0 / 16_777_216.0;
        assert_eq!(ln(least), f64::from(least).ln() as f32);
    }
}
