//! Encodings of values in a GGUF file and what they mean, operation by operation as in ggml's
//! `ggml-quants.c`, so that the f32 are the same bits.

use burn::tensor::DType;
use half::f16;
use sd_kernels::Blocks;

/// Makes a block's values of its bytes.
type Decode = fn(&[u8], &mut [f32]);

/// An encoding: blocks of so many elements in so many bytes.
#[derive(Debug)]
pub(super) struct Encoding {
    /// ggml's number for it.
    id: u32,
    pub(super) name: &'static str,
    /// The type in which values are read; `None` where they are not.
    pub(super) dtype: Option<DType>,
    pub(super) elements: usize,
    pub(super) bytes: usize,
    /// Makes a block's values of its bytes; `None` where values lie as they are.
    pub(super) decode: Option<Decode>,
}

impl Encoding {
    /// The blocks it is of, where they may stay as they are.
    pub(super) fn blocks(&self) -> Option<Blocks> {
        match self.name {
            "Q8_0" => Some(Blocks::Q8),
            "Q4_0" => Some(Blocks::Q4),
            _ => None,
        }
    }
}

/// The encoding that ggml numbers so.
pub(super) fn encoding(id: u32) -> Option<&'static Encoding> {
    ENCODINGS.iter().find(|encoding| encoding.id == id)
}

const ENCODINGS: &[Encoding] = &[
    plain(0, "F32", Some(DType::F32), 4),
    plain(1, "F16", Some(DType::F16), 2),
    quantised(2, "Q4_0", 32, 18, q4_0),
    quantised(3, "Q4_1", 32, 20, q4_1),
    quantised(6, "Q5_0", 32, 22, q5_0),
    quantised(7, "Q5_1", 32, 24, q5_1),
    quantised(8, "Q8_0", 32, 34, q8_0),
    unread(9, "Q8_1", 32, 36),
    quantised(10, "Q2_K", 256, 84, q2_k),
    quantised(11, "Q3_K", 256, 110, q3_k),
    quantised(12, "Q4_K", 256, 144, q4_k),
    quantised(13, "Q5_K", 256, 176, q5_k),
    quantised(14, "Q6_K", 256, 210, q6_k),
    unread(15, "Q8_K", 256, 292),
    unread(16, "IQ2_XXS", 256, 66),
    unread(17, "IQ2_XS", 256, 74),
    unread(18, "IQ3_XXS", 256, 98),
    unread(19, "IQ1_S", 256, 50),
    unread(20, "IQ4_NL", 32, 18),
    unread(21, "IQ3_S", 256, 110),
    unread(22, "IQ2_S", 256, 82),
    unread(23, "IQ4_XS", 256, 136),
    plain(24, "I8", None, 1),
    plain(25, "I16", None, 2),
    plain(26, "I32", None, 4),
    plain(27, "I64", None, 8),
    plain(28, "F64", Some(DType::F64), 8),
    unread(29, "IQ1_M", 256, 56),
    plain(30, "BF16", Some(DType::BF16), 2),
    unread(34, "TQ1_0", 256, 54),
    unread(35, "TQ2_0", 256, 66),
    unread(39, "MXFP4", 32, 17),
];

const fn plain(id: u32, name: &'static str, dtype: Option<DType>, bytes: usize) -> Encoding {
    Encoding {
        id,
        name,
        dtype,
        elements: 1,
        bytes,
        decode: None,
    }
}

const fn quantised(
    id: u32,
    name: &'static str,
    elements: usize,
    bytes: usize,
    decode: Decode,
) -> Encoding {
    Encoding {
        id,
        name,
        dtype: Some(DType::F32),
        elements,
        bytes,
        decode: Some(decode),
    }
}

/// A block of which only the size is known.
const fn unread(id: u32, name: &'static str, elements: usize, bytes: usize) -> Encoding {
    Encoding {
        id,
        name,
        dtype: None,
        elements,
        bytes,
        decode: None,
    }
}

/// The f16 at `at`.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// 32 elements: a scale and nibbles, of which the low ones come first.
fn q4_0(block: &[u8], y: &mut [f32]) {
    let d = half(block, 0);
    for (j, q) in block[2..].iter().enumerate() {
        y[j] = (f32::from(q & 15) - 8.0) * d;
        y[j + 16] = (f32::from(q >> 4) - 8.0) * d;
    }
}

/// As [`q4_0`] with an offset.
fn q4_1(block: &[u8], y: &mut [f32]) {
    let [d, m] = [half(block, 0), half(block, 2)];
    for (j, q) in block[4..].iter().enumerate() {
        y[j] = f32::from(q & 15) * d + m;
        y[j + 16] = f32::from(q >> 4) * d + m;
    }
}

/// The fifth bits, one of each element, at `at`: 16 where it is set.
fn fifth(block: &[u8], at: usize) -> impl Fn(usize) -> u8 {
    let bits = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    move |element| ((bits >> element & 1) << 4) as u8
}

fn q5_0(block: &[u8], y: &mut [f32]) {
    let (d, fifth) = (half(block, 0), fifth(block, 2));
    for (j, q) in block[6..].iter().enumerate() {
        y[j] = (f32::from(q & 15 | fifth(j)) - 16.0) * d;
        y[j + 16] = (f32::from(q >> 4 | fifth(j + 16)) - 16.0) * d;
    }
}

fn q5_1(block: &[u8], y: &mut [f32]) {
    let ([d, m], fifth) = ([half(block, 0), half(block, 2)], fifth(block, 4));
    for (j, q) in block[8..].iter().enumerate() {
        y[j] = f32::from(q & 15 | fifth(j)) * d + m;
        y[j + 16] = f32::from(q >> 4 | fifth(j + 16)) * d + m;
    }
}

fn q8_0(block: &[u8], y: &mut [f32]) {
    let d = half(block, 0);
    for (y, q) in y.iter_mut().zip(&block[2..]) {
        *y = f32::from(*q as i8) * d;
    }
}

/// 16 groups of 16 elements, each with a scale and an offset of four bits.
fn q2_k(block: &[u8], y: &mut [f32]) {
    let (scales, qs) = (&block[..16], &block[16..80]);
    let [d, min] = [half(block, 80), half(block, 82)];
    for (group, y) in y.chunks_exact_mut(16).enumerate() {
        let (dl, ml) = (
            d * f32::from(scales[group] & 15),
            min * f32::from(scales[group] >> 4),
        );
        let (at, shift) = place(group);
        for (y, q) in y.iter_mut().zip(&qs[at..]) {
            *y = dl * f32::from(q >> shift & 3) - ml;
        }
    }
}

/// Where a group of 16 two-bit elements lies: its first byte and the bits' shift. 32 bytes hold 128
/// elements, the first 32 of them in their lowest bits.
fn place(group: usize) -> (usize, usize) {
    (32 * (group / 8) + 16 * (group % 2), 2 * (group % 8 / 2))
}

/// 16 groups of 16 elements of three bits, each with a scale of six.
fn q3_k(block: &[u8], y: &mut [f32]) {
    let (high, qs, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block, 108);
    for (group, y) in y.chunks_exact_mut(16).enumerate() {
        let low = scales[group % 8] >> (4 * (group / 8)) & 15;
        let top = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
        let dl = d * (f32::from(low | top << 4) - 32.0);
        let (at, shift) = place(group);
        let (bit, high) = (group / 2, &high[16 * (group % 2)..]);
        for ((y, q), h) in y.iter_mut().zip(&qs[at..]).zip(high) {
            let below = if h >> bit & 1 == 1 { 0.0 } else { 4.0 };
            *y = dl * (f32::from(q >> shift & 3) - below);
        }
    }
}

/// The scale and the offset, of six bits each, of group `j` of eight.
fn scale_min(b: &[u8], j: usize) -> [f32; 2] {
    let [scale, min] = match j < 4 {
        true => [b[j] & 63, b[j + 4] & 63],
        false => [
            b[j + 4] & 15 | b[j - 4] >> 6 << 4,
            b[j + 4] >> 4 | b[j] >> 6 << 4,
        ],
    };
    [f32::from(scale), f32::from(min)]
}

/// Eight groups of 32 elements.
fn q4_k(block: &[u8], y: &mut [f32]) {
    let [d, min] = [half(block, 0), half(block, 2)];
    let (scales, qs) = (&block[4..16], &block[16..]);
    for (group, y) in y.chunks_exact_mut(32).enumerate() {
        let [scale, m] = scale_min(scales, group);
        let (d, m) = (d * scale, min * m);
        for (y, q) in y.iter_mut().zip(&qs[32 * (group / 2)..]) {
            *y = d * f32::from(q >> (4 * (group % 2)) & 15) - m;
        }
    }
}

fn q5_k(block: &[u8], y: &mut [f32]) {
    let [d, min] = [half(block, 0), half(block, 2)];
    let (scales, high, qs) = (&block[4..16], &block[16..48], &block[48..]);
    for (group, y) in y.chunks_exact_mut(32).enumerate() {
        let [scale, m] = scale_min(scales, group);
        let (d, m) = (d * scale, min * m);
        for ((y, q), h) in y.iter_mut().zip(&qs[32 * (group / 2)..]).zip(high) {
            let q = q >> (4 * (group % 2)) & 15 | (h >> group & 1) << 4;
            *y = d * f32::from(q) - m;
        }
    }
}

/// 16 groups of 16 elements of six bits, each with a scale of eight.
fn q6_k(block: &[u8], y: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block, 208);
    for (group, y) in y.chunks_exact_mut(16).enumerate() {
        let dl = d * f32::from(scales[group] as i8);
        // In each half of 128 elements: four quarters of 32, these of two groups.
        let (half, quarter, first) = (group / 8, group % 8 / 2, 16 * (group % 2));
        let low = &low[64 * half + 32 * (quarter % 2) + first..];
        let high = &high[32 * half + first..];
        for ((y, l), h) in y.iter_mut().zip(low).zip(high) {
            let q = l >> (4 * (quarter / 2)) & 15 | (h >> (2 * quarter) & 3) << 4;
            *y = dl * (f32::from(q) - 32.0);
        }
    }
}
