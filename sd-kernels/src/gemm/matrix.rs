use rayon::prelude::*;

use super::place::{Place, with_bytes};
use crate::blocks::{Blocks, KeptBlocks};
use crate::buffer::{Buffer, Shared};
use crate::error::{Error, Result, check_len};
use crate::held::Held;
use crate::products::Products;
use crate::simd::Isa;
use crate::weight::{Packing, WeightRows, WeightStorage};

/// The right-hand matrix of a product, laid out once for the multiplication kernel.
///
/// Bᵀ, `[columns, depth]` as PyTorch stores a linear weight, becomes panels of two registers of
/// columns: `[columns / width][depth][width]`, zero beyond the last column, or what else of a panel
/// [`Held`] says.
///
/// Where int8 is asked for ([`Products::with_int8`]), a weight is held in it if that loses no more than
/// 2 % of it, RMS: for inputs of one size, independent of each other, that is also the relative error of
/// the layer's output. It is measured on the weight, which is read once more for that. A weight that
/// loses more is held and multiplied as if int8 were not asked for; so is one that takes less memory
/// that way, such as in blocks of 4 bits, and one of more than 2¹⁷ inputs.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    data: Buffer,
    pub(crate) held: Held,
    pub(crate) columns: usize,
    pub(crate) depth: usize,
    pub(crate) isa: Isa,
    pub(crate) products: Products,
}

/// In which order the depth is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    AsStored,
    /// Stored `[inputs][taps]`, packed `[taps][inputs]`.
    TapsFirst {
        inputs: usize,
        taps: usize,
    },
}

impl Order {
    /// Place of the term stored at `k`.
    #[inline(always)]
    pub(super) fn place(self, k: usize) -> usize {
        match self {
            Self::AsStored => k,
            Self::TapsFirst { inputs, taps } => k % taps * inputs + k / taps,
        }
    }
}

impl PackedMatrix {
    /// Packs `weight`, `[columns, depth]`.
    ///
    /// # Errors
    /// A `weight` of another size.
    pub fn new(isa: Isa, weight: &[f32], columns: usize, depth: usize) -> Result<Self> {
        check_len("the weight", weight.len(), &[columns, depth])?;
        Self::read(isa, weight, columns, depth, WeightStorage::F32)
    }

    /// Reads and packs a weight `[columns, depth]`.
    ///
    /// # Errors
    /// Those of reading; a size that no memory holds.
    pub fn read<W: WeightRows + ?Sized>(
        isa: Isa,
        weight: &W,
        columns: usize,
        depth: usize,
        packing: impl Into<Packing>,
    ) -> Result<Self, W::Error> {
        let order = Order::AsStored;
        let (held, products) = packing.into().of(weight, order, [columns, depth])?;
        Self::ordered(isa, weight, columns, depth, order, held, products)
    }

    /// [`read`](Self::read) with the depth in another order.
    pub(crate) fn ordered<W: WeightRows + ?Sized>(
        isa: Isa,
        weight: &W,
        columns: usize,
        depth: usize,
        order: Order,
        held: Held,
        products: Products,
    ) -> Result<Self, W::Error> {
        let width = 2 * isa.lanes();
        let rows = |panel: usize| {
            let first = panel * width;
            [(first, width.min(columns - first), 0), (0, 0, 0)]
        };
        Self::pack(isa, weight, [columns, depth], order, held, products, rows)
    }

    /// Reads and packs a gated linear layer's weight, `[2·columns, depth]`: the values' rows, then
    /// the gates'. Each panel holds a register of values and the register of their gates, so that a
    /// tile has both halves at hand.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn gated<W: WeightRows + ?Sized>(
        isa: Isa,
        weight: &W,
        columns: usize,
        depth: usize,
        packing: impl Into<Packing>,
    ) -> Result<Self, W::Error> {
        let lanes = isa.lanes();
        let padded = columns.div_ceil(lanes) * 2 * lanes;
        let rows = |panel: usize| {
            let first = panel * lanes;
            let count = lanes.min(columns - first);
            [(first, count, 0), (columns + first, count, lanes)]
        };
        let order = Order::AsStored;
        let (held, products) = packing.into().of(weight, order, [2 * columns, depth])?;
        Self::pack(isa, weight, [padded, depth], order, held, products, rows)
    }

    /// Packs panel by panel; `rows` says which rows a panel holds: twice the first, how many and in
    /// which of its columns.
    fn pack<W: WeightRows + ?Sized>(
        isa: Isa,
        weight: &W,
        [columns, depth]: [usize; 2],
        order: Order,
        held: Held,
        products: Products,
        rows: impl Fn(usize) -> [(usize, usize, usize); 2] + Sync,
    ) -> Result<Self, W::Error> {
        let width = 2 * isa.lanes();
        let fits = width.checked_mul(depth).and_then(|n| n.checked_mul(4));
        fits.ok_or(Error::Dimension {
            name: "depth",
            value: depth,
            expected: "a size that memory holds",
        })?;
        let panel_bytes = held.panel(depth, width);
        let panels = columns.div_ceil(width);
        let mut data = Buffer::try_zeroed(panels.saturating_mul(panel_bytes))?;
        let to = Shared(data.as_mut_ptr());
        let blocks = as_blocks(held, weight.blocks());
        (0..panels)
            .into_par_iter()
            .try_for_each(|panel| -> Result<(), W::Error> {
                for (first, count, column) in rows(panel).into_iter().filter(|rows| rows.1 > 0) {
                    // SAFETY: each panel is `panel_bytes` of its own within `data`.
                    let panel = unsafe {
                        std::slice::from_raw_parts_mut(
                            to.get().cast::<u8>().add(panel * panel_bytes),
                            panel_bytes,
                        )
                    };
                    let place = Place {
                        depth,
                        width,
                        column,
                        order,
                    };
                    match blocks {
                        Some(blocks) => {
                            // Those in which the rows begin and end are other rows', too.
                            let terms = [first * depth, (first + count) * depth];
                            let own = blocks.blocks();
                            let before = terms[0] / own.elements();
                            let all = terms[1].div_ceil(own.elements()) - before;
                            let skip = terms[0] % own.elements();
                            with_bytes(all * own.bytes(), |bytes| -> Result<(), W::Error> {
                                weight.read_blocks(before, bytes)?;
                                place.blocks(blocks, bytes, (skip, count), panel);
                                Ok(())
                            })?;
                        }
                        None => {
                            let stored = weight.dtype();
                            with_bytes(
                                count * depth * stored.bytes(),
                                |bytes| -> Result<(), W::Error> {
                                    weight.read(first..first + count, bytes)?;
                                    place.numbers(bytes, stored, held, panel);
                                    Ok(())
                                },
                            )?;
                        }
                    }
                }
                Ok(())
            })?;
        Ok(Self {
            data,
            held,
            columns,
            depth,
            isa,
            products: products.on(isa),
        })
    }

    /// The panels, laid out as [`held`](Self::held) says.
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.data.as_ptr().cast()
    }

    /// Number of columns of B: the outputs of the layer.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Number of rows of B: the inputs of the layer.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The instruction set it is laid out for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Layout of its numbers in memory.
    pub fn held(&self) -> Held {
        self.held
    }

    /// What it is multiplied with.
    pub fn products(&self) -> Products {
        self.products
    }

    /// Bytes of a panel.
    pub(crate) fn panel_bytes(&self) -> usize {
        self.held.panel(self.depth, 2 * self.isa.lanes())
    }

    /// Memory that the packed `weight` `[columns, depth]` will take, in bytes. It is read only where int8
    /// is asked for.
    ///
    /// # Errors
    /// Those of reading.
    pub fn bytes_of<W: WeightRows + ?Sized>(
        isa: Isa,
        weight: &W,
        columns: usize,
        depth: usize,
        packing: impl Into<Packing>,
    ) -> Result<usize, W::Error> {
        let size = [columns, depth];
        let (held, _) = packing.into().of(weight, Order::AsStored, size)?;
        Ok(Self::held_bytes(isa, columns, depth, held))
    }

    /// Memory that a weight of that layout takes, in bytes.
    pub(crate) fn held_bytes(isa: Isa, columns: usize, depth: usize, held: Held) -> usize {
        let width = 2 * isa.lanes();
        Buffer::bytes_of(columns.div_ceil(width) * held.panel(depth, width))
    }

    /// Memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.data.bytes()
    }
}

/// The stored blocks that a layout takes over as they are.
fn as_blocks(held: Held, stored: Option<Blocks>) -> Option<KeptBlocks> {
    match held {
        Held::Blocks(held) if Some(held.blocks()) == stored => Some(held),
        _ => None,
    }
}
