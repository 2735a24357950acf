//! A block's bytes taken apart.

use half::f16;

use super::{Blocks, PART, Scales};

/// What a block says, every number by itself.
#[derive(Debug)]
pub(crate) struct Parts {
    /// f16 that the whole block shares: its scale, and its offset as what is added.
    pub(crate) halves: [[u8; 2]; 2],
    /// Bytes of its groups' scales, two for 32 numbers, as [`Scales`] says.
    pub(crate) scales: [u8; 16],
    /// The whole numbers, in their order.
    pub(crate) quants: [u8; 256],
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            halves: [[0; 2]; 2],
            scales: [0; 16],
            quants: [0; 256],
        }
    }
}

impl Blocks {
    /// Takes `block` apart, which has its size.
    pub(crate) fn split(self, block: &[u8], to: &mut Parts) {
        match self {
            Self::Q4_0 => {
                to.halves[0] = half(block, 0);
                nibbles(&block[2..], |_| 0, &mut to.quants);
            }
            Self::Q4_1 => {
                to.halves = [half(block, 0), half(block, 2)];
                nibbles(&block[4..], |_| 0, &mut to.quants);
            }
            Self::Q5_0 => {
                to.halves[0] = half(block, 0);
                nibbles(&block[6..], fifth(block, 2), &mut to.quants);
            }
            Self::Q5_1 => {
                to.halves = [half(block, 0), half(block, 2)];
                nibbles(&block[8..], fifth(block, 4), &mut to.quants);
            }
            Self::Q8_0 => {
                to.halves[0] = half(block, 0);
                to.quants[..PART].copy_from_slice(&block[2..]);
            }
            Self::Q2K => {
                to.halves = [half(block, 80), negative(half(block, 82))];
                to.scales.copy_from_slice(&block[..16]);
                let qs = &block[16..80];
                for (group, to) in to.quants.chunks_exact_mut(16).enumerate() {
                    let (at, shift) = place(group);
                    for (to, q) in to.iter_mut().zip(&qs[at..]) {
                        *to = q >> shift & 3;
                    }
                }
            }
            Self::Q3K => {
                let (high, qs, scales) = (&block[..32], &block[32..96], &block[96..108]);
                to.halves[0] = half(block, 108);
                let groups = to.quants.chunks_exact_mut(16).zip(&mut to.scales);
                for (group, (to, scale)) in groups.enumerate() {
                    let low = scales[group % 8] >> (4 * (group / 8)) & 15;
                    let top = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
                    *scale = (low | top << 4).wrapping_sub(32);
                    let (at, shift) = place(group);
                    let (bit, high) = (group / 2, &high[16 * (group % 2)..]);
                    for ((to, q), h) in to.iter_mut().zip(&qs[at..]).zip(high) {
                        *to = q >> shift & 3 | (h >> bit & 1) << 2;
                    }
                }
            }
            Self::Q4K => {
                to.halves = [half(block, 0), negative(half(block, 2))];
                pairs(&block[4..16], &mut to.scales);
                let qs = &block[16..];
                for (group, to) in to.quants.chunks_exact_mut(32).enumerate() {
                    for (to, q) in to.iter_mut().zip(&qs[32 * (group / 2)..]) {
                        *to = q >> (4 * (group % 2)) & 15;
                    }
                }
            }
            Self::Q5K => {
                to.halves = [half(block, 0), negative(half(block, 2))];
                pairs(&block[4..16], &mut to.scales);
                let (high, qs) = (&block[16..48], &block[48..]);
                for (group, to) in to.quants.chunks_exact_mut(32).enumerate() {
                    for ((to, q), h) in to.iter_mut().zip(&qs[32 * (group / 2)..]).zip(high) {
                        *to = q >> (4 * (group % 2)) & 15 | (h >> group & 1) << 4;
                    }
                }
            }
            Self::Q6K => {
                let (low, high) = (&block[..128], &block[128..192]);
                to.scales.copy_from_slice(&block[192..208]);
                to.halves[0] = half(block, 208);
                for (group, to) in to.quants.chunks_exact_mut(16).enumerate() {
                    // In each half of 128 numbers: four quarters of 32, these of two groups.
                    let (half, quarter, first) = (group / 8, group % 8 / 2, 16 * (group % 2));
                    let low = &low[64 * half + 32 * (quarter % 2) + first..];
                    let high = &high[32 * half + first..];
                    for ((to, l), h) in to.iter_mut().zip(low).zip(high) {
                        *to = l >> (4 * (quarter / 2)) & 15 | (h >> (2 * quarter) & 3) << 4;
                    }
                }
            }
        }
    }

    /// The numbers of a block that was taken apart.
    pub(super) fn numbers(self, parts: &Parts, to: &mut [f32]) {
        let [d, m] = parts.halves.map(|bytes| f16::from_le_bytes(bytes).to_f32());
        let quants = parts.quants.chunks_exact(16);
        for (group, (to, quants)) in to.chunks_exact_mut(16).zip(quants).enumerate() {
            let pair = group / 2 * 2;
            let [scale, offset] = match self.scales() {
                Scales::Block => [d, m],
                Scales::Signed => [d * f32::from(parts.scales[group] as i8), m],
                Scales::Pairs => [
                    d * f32::from(parts.scales[pair]),
                    m * f32::from(parts.scales[pair + 1]),
                ],
                Scales::Nibbles => [
                    d * f32::from(parts.scales[group] & 15),
                    m * f32::from(parts.scales[group] >> 4),
                ],
            };
            for (y, &q) in to.iter_mut().zip(quants) {
                let q = match self {
                    Self::Q8_0 => f32::from(q as i8),
                    _ => f32::from(q) - self.zero(),
                };
                *y = match self.has_offset() {
                    true => q * scale + offset,
                    false => q * scale,
                };
            }
        }
    }
}

/// The f16 at `at`.
fn half(block: &[u8], at: usize) -> [u8; 2] {
    [block[at], block[at + 1]]
}

/// An f16 with its other sign: an offset that is subtracted as one that is added.
fn negative([low, high]: [u8; 2]) -> [u8; 2] {
    [low, high ^ 0x80]
}

/// 32 numbers of four bits, the low ones first, and what is above them.
fn nibbles(bytes: &[u8], above: impl Fn(usize) -> u8, to: &mut [u8]) {
    for (j, q) in bytes.iter().enumerate() {
        to[j] = q & 15 | above(j);
        to[j + 16] = q >> 4 | above(j + 16);
    }
}

/// The fifth bits, one of each number, at `at`: 16 where it is set.
fn fifth(block: &[u8], at: usize) -> impl Fn(usize) -> u8 {
    let bits = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    move |number| ((bits >> number & 1) << 4) as u8
}

/// Where a group of 16 two-bit numbers lies: its first byte and the bits' shift. 32 bytes hold 128
/// numbers, the first 32 of them in their lowest bits.
fn place(group: usize) -> (usize, usize) {
    (32 * (group / 8) + 16 * (group % 2), 2 * (group % 8 / 2))
}

/// Scale and offset, of six bits each, of eight groups.
fn pairs(b: &[u8], to: &mut [u8; 16]) {
    for j in 0..8 {
        let pair = match j < 4 {
            true => [b[j] & 63, b[j + 4] & 63],
            false => [
                b[j + 4] & 15 | b[j - 4] >> 6 << 4,
                b[j + 4] >> 4 | b[j] >> 6 << 4,
            ],
        };
        to[2 * j..2 * j + 2].copy_from_slice(&pair);
    }
}
