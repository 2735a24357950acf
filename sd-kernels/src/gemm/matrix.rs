use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::{int8, quantize};

use crate::blocks::{Blocks, KeptBlocks, PART, Parts};
use crate::buffer::{Buffer, LINE, Shared, with_scratch};
use crate::error::{Error, Result, check_len};
use crate::held::Held;
use crate::products::{GROUP, Products};
use crate::simd::Isa;
use crate::weight::{DType, Packing, WeightRows, WeightStorage};

/// The right-hand matrix of a product, laid out once for the multiplication kernel.
///
/// Bᵀ, `[columns, depth]` as PyTorch stores a linear weight, becomes panels of two registers of
/// columns: `[columns / width][depth][width]`, zero beyond the last column, or what else of a panel
/// [`Held`] says.
///
/// Where int8 is asked for ([`Products::with_int8`]), a weight is held in it if that loses no more than
/// 2 % of it, RMS: for inputs of one size, independent of each other, that is also the relative error of
/// the layer's output. It is measured on the weight, which is read once more for that. A weight that
/// loses more is held and multiplied as if int8 were not asked for; so is one in blocks of fewer bits
/// than Q8_0's, and one of more than 2¹⁷ inputs.
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
    fn place(self, k: usize) -> usize {
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

/// Runs `f` on so many bytes of whatever values, which start at a cache line.
pub(super) fn with_bytes<R>(bytes: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
    with_scratch(bytes.div_ceil(4), |scratch| {
        // SAFETY: the scratch memory has so many bytes.
        f(unsafe { std::slice::from_raw_parts_mut(scratch.cast::<u8>(), bytes) })
    })
}

/// Calls `f` with numbers of type `stored` as f32.
pub(super) fn widened(bytes: &[u8], stored: DType, f: impl FnOnce(&[f32])) {
    let count = bytes.len() / stored.bytes();
    with_scratch(count, |wide| {
        // SAFETY: plain numbers of any bits, in memory that starts at a cache line.
        unsafe {
            let wide = std::slice::from_raw_parts_mut(wide, count);
            match stored {
                DType::F32 => wide.copy_from_slice(bytes.align_to::<f32>().1),
                DType::F16 => bytes.align_to::<f16>().1.convert_to_f32_slice(wide),
                DType::Bf16 => bytes.align_to::<bf16>().1.convert_to_f32_slice(wide),
            }
            f(wide);
        }
    });
}

/// Where rows of a weight come to lie: in the columns of a panel from `column` on.
#[derive(Clone, Copy)]
struct Place {
    depth: usize,
    width: usize,
    column: usize,
    order: Order,
}

impl Place {
    /// Rows of numbers of type `stored`, as `held` has them.
    fn numbers(self, bytes: &[u8], stored: DType, held: Held, panel: &mut [u8]) {
        // SAFETY: plain numbers of any bits. Nothing is cut off by the alignment: rows start at a cache
        // line, and a panel of numbers has a multiple of 16 bytes.
        unsafe {
            match (stored, held) {
                (DType::F32, Held::Numbers(DType::F32)) => {
                    let panel = panel.align_to_mut::<f32>().1;
                    self.rows(bytes.align_to::<f32>().1, held, |at, x| panel[at] = x);
                }
                // No number that is already one changes.
                (DType::F16, Held::Numbers(DType::F16))
                | (DType::Bf16, Held::Numbers(DType::Bf16) | Held::Pairs) => {
                    let panel = panel.align_to_mut::<u16>().1;
                    self.rows(bytes.align_to::<u16>().1, held, |at, x| panel[at] = x);
                }
                _ => widened(bytes, stored, |wide| match held {
                    Held::Numbers(DType::F32) => {
                        let panel = panel.align_to_mut::<f32>().1;
                        self.rows(wide, held, |at, x| panel[at] = x);
                    }
                    Held::Numbers(DType::F16) => {
                        let panel = panel.align_to_mut::<f16>().1;
                        self.rows(wide, held, |at, x| panel[at] = f16::from_f32(x));
                    }
                    Held::Numbers(DType::Bf16) | Held::Pairs => {
                        let panel = panel.align_to_mut::<bf16>().1;
                        self.rows(wide, held, |at, x| panel[at] = bf16::from_f32(x));
                    }
                    Held::Int8 => self.int8(wide, panel),
                    Held::Blocks(blocks) => self.quantized(wide, blocks, panel),
                }),
            }
        }
    }

    /// Calls `put` with each number and its place in a panel, a line of each row at a time.
    #[inline(always)]
    fn rows<T: Copy>(self, rows: &[T], held: Held, mut put: impl FnMut(usize, T)) {
        let Self { depth, width, .. } = self;
        if depth == 0 {
            return;
        }
        let group = match held {
            Held::Pairs => 2,
            Held::Int8 => GROUP,
            _ => 1,
        };
        let place = |k: usize| {
            let k = self.order.place(k);
            k / group * group * width + k % group
        };
        for first in (0..depth).step_by(LINE) {
            // Once for all rows: a division takes as long as many copies.
            let places: [usize; LINE] = std::array::from_fn(|k| place(first + k));
            for (i, row) in rows.chunks_exact(depth).enumerate() {
                let line = &row[first..depth.min(first + LINE)];
                let column = (self.column + i) * group;
                for (&place, &x) in places.iter().zip(line) {
                    put(place + column, x);
                }
            }
        }
    }

    /// Rounds rows to int8.
    fn int8(self, rows: &[f32], panel: &mut [u8]) {
        let (scales, numbers) = panel.split_at_mut(Held::Int8.head(self.width));
        let mut bytes = vec![0; rows.len()];
        let depth = self.depth.max(1);
        let places = scales.chunks_exact_mut(4).skip(self.column);
        let rows = rows.chunks_exact(depth);
        for ((row, to), scale) in rows.zip(bytes.chunks_exact_mut(depth)).zip(places) {
            scale.copy_from_slice(&int8::quantize(row, to).to_ne_bytes());
        }
        self.rows(&bytes, Held::Int8, |at, x| numbers[at] = x);
    }

    /// Rounds rows to blocks.
    fn quantized(self, rows: &[f32], kept: KeptBlocks, panel: &mut [u8]) {
        let blocks = kept.blocks();
        let mut row = vec![0.0; self.depth];
        let mut block = vec![0; self.depth / PART * blocks.bytes()];
        for (i, stored) in rows.chunks_exact(self.depth).enumerate() {
            for (k, &x) in stored.iter().enumerate() {
                row[self.order.place(k)] = x;
            }
            let numbers = row.as_chunks::<PART>().0;
            for (x, to) in numbers.iter().zip(block.chunks_exact_mut(blocks.bytes())) {
                quantize::quantize(blocks, x, to);
            }
            let column = self.column + i;
            Self { column, ..self }.blocks(kept, &block, (0, 1), panel);
        }
    }

    /// So many rows of blocks, of which the first begins behind the term `skip`.
    fn blocks(
        self,
        kept: KeptBlocks,
        bytes: &[u8],
        (skip, rows): (usize, usize),
        panel: &mut [u8],
    ) {
        let (depth, width, blocks) = (self.depth, self.width, kept.blocks());
        let (span, size) = (kept.span(), kept.piece() * width);
        let mut parts = Parts::default();
        let mut first = 0;
        for block in bytes.chunks_exact(blocks.bytes()) {
            blocks.split(block, &mut parts);
            for from in (0..blocks.elements()).step_by(span) {
                let Some(term) = (first + from).checked_sub(skip) else {
                    continue;
                };
                let (row, k) = (term / depth, term % depth);
                if row < rows {
                    let to = &mut panel[k / span * size..][..size];
                    blocks.put(&parts, (from, span), self.column + row, width, to);
                }
            }
            first += blocks.elements();
        }
    }
}
