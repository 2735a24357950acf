//! Weights on their way into memory: the type of their numbers, and the rows they are read in.

use std::ops::Range;

use half::{bf16, f16};

use crate::blocks::{Blocks, KeptBlocks, PART};
use crate::error::{Error, Result};
use crate::gemm::{Order, is_tolerated};
use crate::held::Held;
use crate::products::{LONGEST, Products};
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
    /// Half precision stays half precision, quantised [`Blocks`] stay these, and both are made f32
    /// a piece at a time where they are used. The results are those of [`F32`](Self::F32).
    AsStored,
    /// Blocks of 32 whole numbers of 8 bits with a scale, 8.5 bits a number ([`Blocks::Q8_0`]):
    /// rounded to these, but as stored where the file has blocks of no more bits. Half precision as
    /// stored where a layer's inputs make no whole blocks.
    Q8,
    /// The same of 4 bits, 4.5 bits a number ([`Blocks::Q4_0`]).
    Q4,
}

impl WeightStorage {
    /// Storages that round weights, by name.
    pub const ROUNDING: [(&str, Self); 2] = [("q8", Self::Q8), ("q4", Self::Q4)];

    /// The name of what it rounds to; `None` of one that rounds nothing.
    pub fn rounding(self) -> Option<&'static str> {
        let found = Self::ROUNDING.iter().find(|(_, own)| *own == self);
        found.map(|(name, _)| *name)
    }
}

/// A weight's storage and what it will be multiplied with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Packing {
    /// Its storage.
    pub storage: WeightStorage,
    /// Products of bf16 need the weight in no more than bf16: where these are asked for, what would
    /// be held in f32 or half precision is held in bf16. Those of int8 need it in that, for which
    /// [`PackedMatrix`](crate::PackedMatrix) has the rule.
    pub products: Products,
}

impl From<WeightStorage> for Packing {
    /// Multiplied in f32.
    fn from(storage: WeightStorage) -> Self {
        Self {
            storage,
            products: Products::F32,
        }
    }
}

impl Packing {
    /// The layout of a `weight` `[rows, depth]` that may be in int8, and what it is multiplied with.
    pub(crate) fn of<W: WeightRows + ?Sized>(
        self,
        weight: &W,
        order: Order,
        [rows, depth]: [usize; 2],
    ) -> Result<(Held, Products), W::Error> {
        let held = self.holds(weight.dtype(), weight.blocks(), order, depth);
        let is_int8 = self.products.int8().is_some()
            && Held::Int8.panel(depth, 1) <= held.panel(depth, 1)
            && depth <= LONGEST
            && is_tolerated(weight, rows, depth)?;
        let held = if is_int8 { Held::Int8 } else { held };
        Ok((held, self.products.of_weight(is_int8)))
    }

    /// Layout of a weight of numbers stored as `stored`, or in `blocks`, of which rows of `depth` terms
    /// are multiplied in this order.
    pub(crate) fn holds(
        self,
        stored: DType,
        blocks: Option<Blocks>,
        order: Order,
        depth: usize,
    ) -> Held {
        // Of a convolution a tap's terms are multiplied together.
        let run = match order {
            Order::AsStored => depth,
            Order::TapsFirst { inputs, .. } => inputs,
        };
        let whole = run > 0 && run.is_multiple_of(PART);
        let rounded = match self.storage {
            WeightStorage::F32 | WeightStorage::AsStored => None,
            WeightStorage::Q8 => Some(Blocks::Q8_0),
            WeightStorage::Q4 => Some(Blocks::Q4_0),
        };
        let stays = |blocks: &Blocks| match rounded {
            Some(rounded) => blocks.fits(rounded),
            None => self.storage == WeightStorage::AsStored,
        };
        let kept = blocks.filter(stays);
        let kept = kept.map(|blocks| KeptBlocks::new(blocks, order, depth));
        // Rounded as they are multiplied.
        let rounded = rounded.map(|blocks| KeptBlocks::new(blocks, Order::AsStored, depth));
        if let Some(blocks) = kept.or(rounded).filter(|_| whole) {
            return Held::Blocks(blocks);
        }
        match self.storage {
            _ if !self.products.is_f32() => Held::Pairs,
            WeightStorage::F32 => Held::Numbers(DType::F32),
            _ => Held::Numbers(stored),
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

    /// The quantised blocks that it is stored in, row after row, each of [`Blocks::elements`] terms;
    /// `None` where it is in none. A row may end in the middle of one.
    fn blocks(&self) -> Option<Blocks> {
        None
    }

    /// Reads blocks into `to`, as they are stored, from the one of number `first` on.
    ///
    /// # Errors
    /// A failure to read them; a weight that has none.
    fn read_blocks(&self, first: usize, to: &mut [u8]) -> Result<(), Self::Error> {
        let _ = (first, to);
        Err(Self::Error::from(Error::Dimension {
            name: "the number of quantised blocks",
            value: 0,
            expected: "as many as a weight of blocks has",
        }))
    }

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
