//! Rows of a weight on their way into a panel: widened, rounded, and put where they are multiplied.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::matrix::Order;
use super::{int8, quantize};
use crate::blocks::{KeptBlocks, PART, Parts};
use crate::buffer::{LINE, with_scratch};
use crate::held::Held;
use crate::products::GROUP;
use crate::weight::DType;

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
pub(super) struct Place {
    pub(super) depth: usize,
    pub(super) width: usize,
    pub(super) column: usize,
    pub(super) order: Order,
}

impl Place {
    /// Rows of numbers of type `stored`, as `held` has them.
    pub(super) fn numbers(self, bytes: &[u8], stored: DType, held: Held, panel: &mut [u8]) {
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
    pub(super) fn blocks(
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
