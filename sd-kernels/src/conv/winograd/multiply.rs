//! The products between the transforms: a matrix product at each of the `IN`² positions.

use super::scheme::Scheme;
use super::{Block, Layer, Shared, odd};
use crate::buffer::LINE;
use crate::gemm::{Activation, Ahead, Store, tile};
use crate::simd::{Kernel, Vector};

/// The products of some tiles with one panel: `[IN²][tiles][width]`, `size` apart.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    pub(super) data: Shared,
    pub(super) size: usize,
}

impl Sums {
    pub(super) fn new(tiles: usize, width: usize) -> Self {
        Self {
            data: Shared(std::ptr::null_mut()),
            size: odd(tiles * width),
        }
    }

    pub(super) fn at(self, data: Shared) -> Self {
        Self { data, ..self }
    }
}

impl<S: Scheme<IN, OUT>, const IN: usize, const OUT: usize> Layer<'_, S, IN, OUT> {
    /// Multiplies some matrix tiles with the transformed `inputs` (from, to) of a panel, and adds
    /// to `sums` unless these are the first inputs.
    pub(super) fn multiply(
        &self,
        block: &Block,
        tiles: (usize, usize),
        panel: usize,
        inputs: (usize, usize),
        weight: Shared,
        sums: Sums,
    ) {
        self.weight.isa.run(Multiply {
            block,
            tiles,
            columns: self.call.outputs - panel * self.width,
            inputs,
            weight: weight.get(),
            position: self.position(inputs.1 - inputs.0),
            positions: IN * IN,
            sums,
        });
    }
}

struct Multiply<'a> {
    block: &'a Block,
    tiles: (usize, usize),
    /// Outputs from this panel on.
    columns: usize,
    inputs: (usize, usize),
    weight: *const f32,
    /// f32 from one position of the weight to the next.
    position: usize,
    positions: usize,
    sums: Sums,
}

impl Kernel for Multiply<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let block = self.block;
        let registers = if self.columns > V::LANES { 2 } else { 1 };
        let (from, k) = (self.inputs.0, self.inputs.1 - self.inputs.0);
        let first = block.tiles.get(self.tiles.0).0;
        for position in 0..self.positions {
            let b = self.weight.add(position * self.position);
            let store = Store {
                out: Shared(self.sums.data.get().add(position * self.sums.size)),
                stride: 2 * V::LANES,
                columns: 2 * V::LANES,
                accumulate: from > 0,
                last: false,
                bias: std::ptr::null(),
                residual: std::ptr::null(),
                activation: Activation::None,
                rectified: false,
            };
            for t in self.tiles.0..self.tiles.1 {
                let (row, rows) = block.tiles.get(t);
                let left = |position: usize, row: usize, rows: usize| {
                    let matrix = block.input.get().wrapping_add(position * block.input_size);
                    matrix.wrapping_add(row * block.inputs + from / LINE * rows * LINE)
                };
                // The next tile is elsewhere in a memory larger than the caches near by.
                let next = if t + 1 < self.tiles.1 {
                    let (row, rows) = block.tiles.get(t + 1);
                    left(position, row, rows)
                } else {
                    left(position + 1, first, rows)
                };
                let ahead = Ahead {
                    from: next,
                    lines: rows,
                    step: 0,
                };
                let a = left(position, row, rows);
                tile::<V, _>(rows, registers, k, [a, b], ahead, (row - first, 0), store);
            }
        }
    }
}
