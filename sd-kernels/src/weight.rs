//! Weights on their way into memory: the type of their numbers, and the rows they are read in.

use std::ops::Range;

use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::simd::Vector;

/// The type a weight's numbers have in memory. What is computed from them is always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32 bits.
    F32,
    /// IEEE 754's 16 bits: 11 of precision.
    F16,
    /// The upper half of an f32: 8 bits of precision.
    Bf16,
}

impl DType {
    /// Size of one, in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Makes `count` f32 of the numbers at `from`; `count` is a multiple of `V::LANES`.
    ///
    /// # Safety
    /// Under the instruction set of `V`, for pointers valid for `count` numbers.
    #[inline(always)]
    pub(crate) unsafe fn widen<V: Vector>(self, from: *const u8, count: usize, to: *mut f32) {
        for i in (0..count).step_by(V::LANES) {
            self.load::<V>(from, i).store(to.add(i));
        }
    }

    /// `V::LANES` numbers from the one of number `index` behind `from`.
    ///
    /// # Safety
    /// As for [`Vector`].
    #[inline(always)]
    pub(crate) unsafe fn load<V: Vector>(self, from: *const u8, index: usize) -> V {
        match self {
            Self::F32 => V::load(from.cast::<f32>().add(index)),
            Self::F16 => V::load_f16(from.cast::<u16>().add(index)),
            Self::Bf16 => V::load_bf16(from.cast::<u16>().add(index)),
        }
    }
}

/// Storage of a weight in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightStorage {
    /// It is held as f32, whatever it was stored as: no time goes into making f32 of it.
    #[default]
    F32,
    /// Half precision stays half precision, and is made f32 a piece at a time where it is used.
    /// The results are those of [`F32`](Self::F32): every half is an f32.
    AsStored,
}

impl WeightStorage {
    /// Type in which numbers stored as `stored` are held.
    pub const fn holds(self, stored: DType) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::AsStored => stored,
        }
    }
}

/// A weight `[rows, …]` that is read while it is packed, a few rows at a time, by several threads
/// at once: so it is never in memory twice.
pub trait WeightRows: Sync {
    /// Error of a weight that could not be read.
    type Error: From<Error> + Send;

    /// Type in which its numbers are stored.
    fn dtype(&self) -> DType;

    /// Reads `rows` into `to`, which has exactly the size of so many rows, as the bytes that
    /// numbers of [`dtype`](Self::dtype) have in memory.
    ///
    /// # Errors
    /// A failure to read them.
    fn read(&self, rows: Range<usize>, to: &mut [u8]) -> Result<(), Self::Error>;
}

macro_rules! rows_of_slices {
    ($($number:ty: $dtype:ident),*) => {$(
        impl WeightRows for [$number] {
            type Error = Error;

            fn dtype(&self) -> DType {
                DType::$dtype
            }

            fn read(&self, rows: Range<usize>, to: &mut [u8]) -> Result<()> {
                let row = to.len() / size_of::<$number>() / rows.len().max(1);
                let from = &self[rows.start * row..rows.end * row];
                for (to, x) in to.chunks_exact_mut(size_of::<$number>()).zip(from) {
                    to.copy_from_slice(&x.to_ne_bytes());
                }
                Ok(())
            }
        }
    )*};
}

rows_of_slices!(f32: F32, f16: F16, bf16: Bf16);
