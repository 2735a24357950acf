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
        let mut values: Vec<f32> = (0..count).map(|_| self.uniform_f32()).collect();
        for block in values.as_chunks_mut::<16>().0 {
            box_muller(block);
        }
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
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let magic = if y & 1 == 0 { 0 } else { 0x9908_b0df };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ magic;
        }
        self.next = 0;
    }

    /// Uniform in `[0, 1)` with 24 bits.
    fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() & 0x00ff_ffff) as f32 / 16_777_216.0
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

/// Eight uniforms for the radii and eight for the angles to sixteen normals. The roundings to f32
/// are torch's: an angle rounded elsewhere would be off by 2e-6 in the result.
fn box_muller(block: &mut [f32; 16]) {
    for j in 0..8 {
        let radius = f64::from((-2.0 * ln(1.0 - block[j])).sqrt());
        let (sin, cos) = f64::from(TAU_F32 * block[j + 8]).sin_cos();
        block[j] = (radius * cos) as f32;
        block[j + 8] = (radius * sin) as f32;
    }
}

/// The natural logarithm of an f32, correctly rounded.
fn ln(x: f32) -> f32 {
    f64::from(x).ln() as f32
}

impl std::fmt::Debug for TorchRng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TorchRng").finish_non_exhaustive()
    }
}
