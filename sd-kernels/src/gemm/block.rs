//! The loops around the tile: blocks of A that stay in the second-level cache while panels of B
//! pass through the first.

use super::source::Source;
use super::tile::{Ahead, Finish, tile};
use super::{PackedMatrix, Store};
use crate::buffer::{LINE, with_scratch};
use crate::parallel::{chunk, for_each};
use crate::simd::{Isa, Kernel, Vector};
use crate::weight::DType;

/// Longest part of the depth multiplied at once: its panel of B (32 columns at 16 lanes) fills
/// most of a 48 KiB first-level cache.
const DEPTH: usize = 640;

/// f32 of A packed at once: half of a 1 MiB second-level cache.
pub(crate) const BLOCK: usize = 144 * 1024;

/// Rows of A as packed tiles of at most `V::ROWS` rows, of nearly equal height.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiles {
    pub(crate) rows: usize,
    pub(crate) count: usize,
}

impl Tiles {
    pub(crate) fn new(rows: usize, tallest: usize) -> Self {
        let count = rows.div_ceil(tallest);
        Self { rows, count }
    }

    /// First row and number of rows of a tile.
    #[inline(always)]
    pub(crate) fn get(self, index: usize) -> (usize, usize) {
        let (from, to) = chunk(self.rows, self.count, index);
        (from, to - from)
    }

    /// First row of a tile, or for `count` the number of rows.
    #[inline(always)]
    pub(crate) fn start(self, index: usize) -> usize {
        chunk(self.rows, self.count, index).0
    }
}

/// Packed rows of A times panels of B, over `k` terms.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    /// A: for each tile `[lines][rows][16]`, one after the other.
    pub(crate) a: *const f32,
    pub(crate) tiles: Tiles,
    /// f32 of A per row: `k` rounded up to lines.
    pub(crate) row_size: usize,
    /// B, at the first term of panel 0.
    pub(crate) b: *const u8,
    pub(crate) dtype: DType,
    /// Numbers from one panel of B to the next.
    pub(crate) panel_size: usize,
    /// Room for the `k` terms of one panel, where B is not of f32.
    pub(crate) wide: *mut f32,
    pub(crate) k: usize,
}

impl Panels {
    /// Multiplies all tiles with the panels `from`..`to`; `columns` of B are not padding.
    #[inline(always)]
    pub(crate) unsafe fn run<V: Vector>(
        self,
        (from, to): (usize, usize),
        columns: usize,
        first_row: usize,
        finish: impl Finish,
    ) {
        for panel in from..to {
            let panel_bytes = self.panel_size * self.dtype.bytes();
            let held = self.b.add(panel * panel_bytes);
            // All tiles of the block share the conversion.
            let b = if self.dtype == DType::F32 {
                held.cast()
            } else {
                let count = self.k * 2 * V::LANES;
                self.dtype.widen::<V>(held, count, self.wide);
                self.wide.cast_const()
            };
            let registers = if columns - panel * 2 * V::LANES > V::LANES {
                2
            } else {
                1
            };
            // The tiles of this panel together fetch the next one; a single tile could not wait
            // for it anyway.
            let lines = if self.tiles.count > 1 {
                (2 * V::LANES * self.dtype.bytes() / 4).div_ceil(self.tiles.count)
            } else {
                0
            };
            for t in 0..self.tiles.count {
                let (row, rows) = self.tiles.get(t);
                let ahead = Ahead {
                    from: held
                        .wrapping_add(panel_bytes + t * lines * self.k * 4)
                        .cast(),
                    lines,
                };
                let a = self.a.add(row * self.row_size);
                let at = (first_row + row, panel);
                tile::<V, _>(rows, registers, self.k, [a, b], ahead, at, finish);
            }
        }
    }
}

/// Division of a product into tasks.
#[derive(Clone, Copy, Debug)]
struct Grid {
    row_parts: usize,
    panel_parts: usize,
}

impl Grid {
    /// Row parts whose rows of A fit [`BLOCK`] `depth` terms at a time, and enough tasks for every
    /// thread to have a few.
    fn new(rows: usize, depth: usize, panels: usize, isa: Isa) -> Self {
        let threads = rayon::current_num_threads();
        let tallest = (BLOCK / depth.next_multiple_of(LINE)).max(isa.rows());
        let wanted = if threads == 1 { 1 } else { 4 * threads };
        let mut row_parts = rows.div_ceil(tallest);
        let mut panel_parts = 1;
        // Cutting rows keeps A packed once; below a few tiles a chunk, B is cut instead.
        while row_parts * panel_parts < wanted {
            if rows / (2 * row_parts) >= 4 * isa.rows() {
                row_parts *= 2;
            } else if panels / (2 * panel_parts) >= 2 {
                panel_parts *= 2;
            } else {
                break;
            }
        }
        Self {
            row_parts,
            panel_parts,
        }
    }

    /// Runs one task of the grid on a part of the depth.
    #[allow(clippy::too_many_arguments)]
    fn task(
        self,
        rows: usize,
        panels: usize,
        lines: (usize, usize),
        task: usize,
        b: &PackedMatrix,
        source: impl Source,
        finish: impl Finish,
    ) {
        let block = chunk(rows, self.row_parts, task / self.panel_parts);
        let depth = (lines.1 - lines.0) * LINE;
        let size = (block.1 - block.0) * depth;
        let wide = if b.dtype == DType::F32 {
            0
        } else {
            depth * 2 * b.isa.lanes()
        };
        with_scratch(size + wide, |a| {
            b.isa.run(Task {
                a,
                // SAFETY: inside the scratch memory, or its end.
                wide: unsafe { a.add(size) },
                block,
                lines,
                panels: chunk(panels, self.panel_parts, task % self.panel_parts),
                b,
                source,
                finish,
            });
        });
    }
}

/// C = A·B with the depth cut into parts that add up in C.
pub(crate) fn product(rows: usize, source: impl Source, b: &PackedMatrix, store: Store) {
    let panels = b.columns.div_ceil(2 * b.isa.lanes());
    let lines = b.depth.div_ceil(LINE);
    let parts = lines.div_ceil(DEPTH / LINE);
    let grid = Grid::new(rows, lines.div_ceil(parts) * LINE, panels, b.isa);
    for_each(grid.row_parts * grid.panel_parts, |task| {
        for index in 0..parts {
            let finish = store.chunk(index, parts);
            grid.task(
                rows,
                panels,
                chunk(lines, parts, index),
                task,
                b,
                source,
                finish,
            );
        }
    });
}

/// As [`product`] with the whole depth at once, for a [`Finish`] that must see complete sums.
pub(crate) fn product_whole(rows: usize, source: impl Source, b: &PackedMatrix, f: impl Finish) {
    let panels = b.columns.div_ceil(2 * b.isa.lanes());
    let lines = b.depth.div_ceil(LINE);
    let grid = Grid::new(rows, lines * LINE, panels, b.isa);
    for_each(grid.row_parts * grid.panel_parts, |task| {
        grid.task(rows, panels, (0, lines), task, b, source, f);
    });
}

/// One block of rows, one part of the depth, some panels.
struct Task<'a, S, F> {
    a: *mut f32,
    wide: *mut f32,
    block: (usize, usize),
    lines: (usize, usize),
    panels: (usize, usize),
    b: &'a PackedMatrix,
    source: S,
    finish: F,
}

impl<S: Source, F: Finish> Kernel for Task<'_, S, F> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (first_row, end_row) = self.block;
        let (first_line, end_line) = self.lines;
        let lines = end_line - first_line;
        let tiles = Tiles::new(end_row - first_row, V::ROWS);
        for t in 0..tiles.count {
            let (row, rows) = tiles.get(t);
            let to = self.a.add(row * lines * LINE);
            let at = (first_row + row, rows);
            self.source.pack::<V>(at, (first_line, lines), to);
        }
        let from = first_line * LINE;
        let panels = Panels {
            a: self.a,
            tiles,
            row_size: lines * LINE,
            b: (self.b.as_ptr()).add(from * 2 * V::LANES * self.b.dtype.bytes()),
            dtype: self.b.dtype,
            panel_size: self.b.depth * 2 * V::LANES,
            wide: self.wide,
            k: self.b.depth.min(end_line * LINE) - from,
        };
        panels.run::<V>(self.panels, self.b.columns, first_row, self.finish);
    }
}
