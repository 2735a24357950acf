//! ggml's quantised blocks: what their bytes mean, operation by operation as in ggml's
//! `ggml-quants.c`, so that the f32 are the same bits.

mod expand;
mod kept;
mod split;

pub(crate) use expand::Expand;
pub use kept::KeptBlocks;
pub(crate) use split::Parts;

use crate::error::{Error, Result, check_len};

/// Fewest terms of a block, and terms of a part of one.
pub(crate) const PART: usize = 32;

/// Quantised blocks of ggml's, by its names.
///
/// A block's numbers are `scale·(q − zero)` or `scale·q + offset`, with whole numbers `q` of a few
/// bits. In blocks of 256 (`K`), groups of 16 or 32 numbers have scales of their own, which are
/// whole numbers times the block's.
#[allow(clippy::upper_case_acronyms)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blocks {
    /// 4 bits: `d·(q − 8)`.
    Q4_0,
    /// 4 bits: `d·q + m`.
    Q4_1,
    /// 5 bits: `d·(q − 16)`.
    Q5_0,
    /// 5 bits: `d·q + m`.
    Q5_1,
    /// 8 bits with a sign: `d·q`.
    Q8_0,
    /// 2 bits; scale and offset of 16 numbers in 4 bits each.
    Q2K,
    /// 3 bits around 4; scale of 16 numbers in 6 bits.
    Q3K,
    /// 4 bits; scale and offset of 32 numbers in 6 bits each.
    Q4K,
    /// 5 bits; scale and offset of 32 numbers in 6 bits each.
    Q5K,
    /// 6 bits around 32; scale of 16 numbers in 8 bits.
    Q6K,
}

/// The scales that the groups of a block have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scales {
    /// None: the block's are all there are.
    Block,
    /// A byte with a sign for 16 numbers.
    Signed,
    /// A byte for the scale and one for the offset of 32 numbers.
    Pairs,
    /// For 16 numbers a byte, the scale in its low bits and the offset in its high.
    Nibbles,
}

impl Blocks {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Numbers of a block.
    pub const fn elements(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => PART,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// True where it has no more bits a number than `other`.
    pub(crate) const fn fits(self, other: Self) -> bool {
        self.bytes() * other.elements() <= other.bytes() * self.elements()
    }

    /// Bits of a whole number, the low ones and those that lie by themselves above them.
    const fn bits(self) -> (usize, usize) {
        match self {
            Self::Q8_0 => (8, 0),
            Self::Q4_0 | Self::Q4_1 | Self::Q4K => (4, 0),
            Self::Q5_0 | Self::Q5_1 | Self::Q5K => (4, 1),
            Self::Q6K => (4, 2),
            Self::Q2K => (2, 0),
            Self::Q3K => (2, 1),
        }
    }

    /// The whole number that stands for zero, where none is added.
    const fn zero(self) -> f32 {
        match self {
            Self::Q4_0 => 8.0,
            Self::Q5_0 => 16.0,
            Self::Q3K => 4.0,
            Self::Q6K => 32.0,
            _ => 0.0,
        }
    }

    /// True where an offset is added.
    const fn has_offset(self) -> bool {
        matches!(
            self,
            Self::Q4_1 | Self::Q5_1 | Self::Q2K | Self::Q4K | Self::Q5K
        )
    }

    const fn scales(self) -> Scales {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => Scales::Block,
            Self::Q3K | Self::Q6K => Scales::Signed,
            Self::Q4K | Self::Q5K => Scales::Pairs,
            Self::Q2K => Scales::Nibbles,
        }
    }

    /// f16 that all of a block share: a scale, and where there are such an offset.
    const fn halves(self) -> usize {
        1 + self.has_offset() as usize
    }

    /// Bytes of scales that 32 numbers have of their own.
    const fn scale_bytes(self) -> usize {
        match self.scales() {
            Scales::Block => 0,
            Scales::Signed | Scales::Pairs | Scales::Nibbles => 2,
        }
    }

    /// Bytes of 32 numbers in a panel, without what a block shares.
    const fn part_bytes(self) -> usize {
        let (low, high) = self.bits();
        self.scale_bytes() + (low + high) * PART / 8
    }

    /// Writes the numbers that `blocks` stand for: ggml's f32, bit for bit.
    ///
    /// # Errors
    /// Bytes that are no whole blocks, and a `to` of another size than their numbers.
    pub fn decode(self, blocks: &[u8], to: &mut [f32]) -> Result<()> {
        let (all, rest) = (blocks.len() / self.bytes(), blocks.len() % self.bytes());
        if rest > 0 {
            return Err(Error::Dimension {
                name: "the number of bytes",
                value: blocks.len(),
                expected: "whole blocks",
            });
        }
        check_len(
            "the numbers of the blocks",
            to.len(),
            &[all, self.elements()],
        )?;
        let mut parts = Parts::default();
        let numbers = to.chunks_exact_mut(self.elements());
        for (block, to) in blocks.chunks_exact(self.bytes()).zip(numbers) {
            self.split(block, &mut parts);
            self.numbers(&parts, to);
        }
        Ok(())
    }
}
