use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::buffer::{Buffer, LINE, Shared, with_scratch};
use crate::error::{Error, Result, check_len};
use crate::simd::Isa;
use crate::weight::{DType, WeightRows, WeightStorage};

/// The right-hand matrix of a product, laid out once for the multiplication kernel.
///
/// Bᵀ, `[columns, depth]` as PyTorch stores a linear weight, becomes panels of two registers of
/// columns: `[columns / width][depth][width]`, zero beyond the last column.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    data: Buffer,
    pub(crate) dtype: DType,
    pub(crate) columns: usize,
    pub(crate) depth: usize,
    pub(crate) isa: Isa,
}

/// In which order the depth is packed.
#[derive(Clone, Copy, Debug)]
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
        storage: WeightStorage,
    ) -> Result<Self, W::Error> {
        Self::ordered(isa, weight, columns, depth, Order::AsStored, storage)
    }

    /// [`read`](Self::read) with the depth in another order.
    pub(crate) fn ordered<W: WeightRows + ?Sized>(
        isa: Isa,
        weight: &W,
        columns: usize,
        depth: usize,
        order: Order,
        storage: WeightStorage,
    ) -> Result<Self, W::Error> {
        let width = 2 * isa.lanes();
        let rows = |panel: usize| {
            let first = panel * width;
            [(first, width.min(columns - first), 0), (0, 0, 0)]
        };
        Self::pack(isa, weight, [columns, depth], order, storage, rows)
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
        storage: WeightStorage,
    ) -> Result<Self, W::Error> {
        let lanes = isa.lanes();
        let padded = columns.div_ceil(lanes) * 2 * lanes;
        let rows = |panel: usize| {
            let first = panel * lanes;
            let count = lanes.min(columns - first);
            [(first, count, 0), (columns + first, count, lanes)]
        };
        Self::pack(isa, weight, [padded, depth], Order::AsStored, storage, rows)
    }

    /// Packs panel by panel; `rows` says which rows a panel holds: twice the first, how many and in
    /// which of its columns.
    fn pack<W: WeightRows + ?Sized>(
        isa: Isa,
        weight: &W,
        [columns, depth]: [usize; 2],
        order: Order,
        storage: WeightStorage,
        rows: impl Fn(usize) -> [(usize, usize, usize); 2] + Sync,
    ) -> Result<Self, W::Error> {
        let width = 2 * isa.lanes();
        let (stored, held) = (weight.dtype(), storage.holds(weight.dtype()));
        let panel_bytes = width.checked_mul(depth).and_then(|n| n.checked_mul(4));
        let panel_bytes = panel_bytes.ok_or(Error::Dimension {
            name: "depth",
            value: depth,
            expected: "a size that memory holds",
        })? / 4
            * held.bytes();
        let panels = columns.div_ceil(width);
        let mut data = Buffer::try_zeroed(panels.saturating_mul(panel_bytes))?;
        let to = Shared(data.as_mut_ptr());
        (0..panels)
            .into_par_iter()
            .try_for_each(|panel| -> Result<(), W::Error> {
                for (first, count, column) in rows(panel).into_iter().filter(|rows| rows.1 > 0) {
                    with_stored(weight, first, count, depth, |bytes| {
                        // SAFETY: each panel is `panel_bytes` of its own within `data`.
                        let panel = unsafe {
                            std::slice::from_raw_parts_mut(
                                to.get().cast::<u8>().add(panel * panel_bytes),
                                panel_bytes,
                            )
                        };
                        place(bytes, [stored, held], [depth, width], column, order, panel);
                    })?;
                }
                Ok(())
            })?;
        Ok(Self {
            data,
            dtype: held,
            columns,
            depth,
            isa,
        })
    }

    /// The numbers, [`numbers`](Self::numbers) says of which type.
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

    /// Type in which its numbers are held.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Memory that a weight `[columns, depth]` of numbers of type `dtype` will take, in bytes.
    pub fn bytes_of(isa: Isa, columns: usize, depth: usize, dtype: DType) -> usize {
        let width = 2 * isa.lanes();
        let numbers = columns.div_ceil(width) * width * depth;
        Buffer::bytes_of(numbers * dtype.bytes())
    }

    /// Memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.data.bytes()
    }
}

/// Runs `f` on the bytes of some rows of `weight`, which start at a cache line.
fn with_stored<W: WeightRows + ?Sized>(
    weight: &W,
    first: usize,
    count: usize,
    depth: usize,
    f: impl FnOnce(&[u8]),
) -> Result<(), W::Error> {
    let bytes = count * depth * weight.dtype().bytes();
    with_scratch(bytes.div_ceil(4), |scratch| {
        // SAFETY: the scratch memory has so many bytes, of whatever values.
        let bytes = unsafe { std::slice::from_raw_parts_mut(scratch.cast::<u8>(), bytes) };
        weight.read(first..first + count, bytes)?;
        f(bytes);
        Ok(())
    })
}

/// Puts rows of `depth` numbers into the columns of a panel from `column` on.
fn place(
    bytes: &[u8],
    [stored, held]: [DType; 2],
    [depth, width]: [usize; 2],
    column: usize,
    order: Order,
    panel: &mut [u8],
) {
    // SAFETY: plain numbers of any bits, in memory that starts at a cache line.
    unsafe {
        match (stored, held) {
            (DType::F32, _) => {
                let rows = bytes.align_to::<f32>().1;
                columns(
                    rows,
                    depth,
                    width,
                    column,
                    order,
                    panel.align_to_mut::<f32>().1,
                );
            }
            (_, DType::F32) => {
                let panel = panel.align_to_mut::<f32>().1;
                let count = bytes.len() / 2;
                with_scratch(count, |wide| {
                    let wide = std::slice::from_raw_parts_mut(wide, count);
                    match stored {
                        DType::F16 => bytes.align_to::<f16>().1.convert_to_f32_slice(wide),
                        _ => bytes.align_to::<bf16>().1.convert_to_f32_slice(wide),
                    }
                    columns(wide, depth, width, column, order, panel);
                });
            }
            _ => {
                let rows = bytes.align_to::<u16>().1;
                columns(
                    rows,
                    depth,
                    width,
                    column,
                    order,
                    panel.align_to_mut::<u16>().1,
                );
            }
        }
    }
}

/// Transposes rows of `depth` into columns of `[depth][width]`, a line of each at a time.
fn columns<T: Copy>(
    rows: &[T],
    depth: usize,
    width: usize,
    column: usize,
    order: Order,
    panel: &mut [T],
) {
    if depth == 0 {
        return;
    }
    for first in (0..depth).step_by(LINE) {
        // Once for all rows: a division takes as long as many copies.
        let places: [usize; LINE] = std::array::from_fn(|k| order.place(first + k) * width);
        for (i, row) in rows.chunks_exact(depth).enumerate() {
            let line = &row[first..depth.min(first + LINE)];
            for (&place, &x) in places.iter().zip(line) {
                panel[place + column + i] = x;
            }
        }
    }
}
