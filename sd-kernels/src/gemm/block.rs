//! The loops around the tile: blocks of A that stay in the second-level cache while panels of B
//! pass through the first.

use super::source::Source;
use super::tile::{Ahead, Finish};
use super::{PackedMatrix, Store};
use crate::buffer::{LINE, with_scratch};
use crate::held::Held;
use crate::parallel::{chunk, for_each};
use crate::products::{Products, Shifted, Unit, UnitKernel};
use crate::simd::{Isa, Vector};

/// f32 of A packed at once: half of a 1 MiB second-level cache.
pub(crate) const BLOCK: usize = 144 * 1024;

/// Rows of A as packed tiles of no more rows than a unit's highest, of nearly equal height or all
/// but the last of that one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiles {
    pub(crate) rows: usize,
    pub(crate) count: usize,
    /// The height of all but the last, or 0.
    height: usize,
}

impl Tiles {
    pub(crate) fn new(rows: usize, tallest: usize) -> Self {
        let count = rows.div_ceil(tallest);
        let height = 0;
        Self {
            rows,
            count,
            height,
        }
    }

    /// Those of a unit.
    pub(crate) fn of<V: Vector, U: Unit<V>>(rows: usize) -> Self {
        let height = if U::FILLS { U::ROWS } else { 0 };
        Self {
            height,
            ..Self::new(rows, U::ROWS)
        }
    }

    /// First row and number of rows of a tile.
    #[inline(always)]
    pub(crate) fn get(self, index: usize) -> (usize, usize) {
        let (from, to) = (self.start(index), self.start(index + 1));
        (from, to - from)
    }

    /// First row of a tile, or for `count` the number of rows.
    #[inline(always)]
    pub(crate) fn start(self, index: usize) -> usize {
        match self.height {
            0 => chunk(self.rows, self.count, index).0,
            height => (index * height).min(self.rows),
        }
    }
}

/// Packed rows of A times panels of B, over the terms `first` to `end`.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    /// A: for each tile `[lines][rows]` lines, one after the other.
    pub(crate) a: *const f32,
    pub(crate) tiles: Tiles,
    /// f32 that a row of A takes.
    pub(crate) row_size: usize,
    /// B, at panel 0.
    pub(crate) b: *const u8,
    pub(crate) held: Held,
    pub(crate) panel_bytes: usize,
    /// Room for those terms of one panel, where B is held in another layout than is multiplied.
    pub(crate) wide: *mut f32,
    /// Room for the sums of all tiles with a panel, where their lines are more than
    /// [`Unit::RESIDENT`].
    pub(crate) sums: *mut f32,
    /// Those of the rows of A, where its unit has such.
    pub(crate) scales: *const f32,
    pub(crate) terms: (usize, usize),
    /// What this runs on.
    pub(crate) unit: (Isa, Products),
}

impl Panels {
    /// Multiplies all tiles with the panels `from`..`to`; `columns` of B are not padding.
    #[inline(always)]
    pub(crate) unsafe fn run<V: Vector, U: Unit<V>>(
        self,
        (from, to): (usize, usize),
        columns: usize,
        first_row: usize,
        finish: impl Finish,
    ) {
        let width = 2 * V::LANES;
        let k = self.terms.1 - self.terms.0;
        for panel in from..to {
            let held = self.b.add(panel * self.panel_bytes);
            // All tiles of the block share the conversion.
            let b = (self.held).multiplied::<V, U>(held, self.terms, self.wide, self.unit);
            let registers = if columns - panel * width > V::LANES {
                2
            } else {
                1
            };
            // The tiles of this panel together fetch the next one. A single one could not wait for it,
            // but matrix tiles, whose own loads come one line after the other, gain even then.
            let line_bytes = self.held.terms(U::TERMS, width) / LINE;
            let lines = if self.tiles.count > 1 || U::FILLS {
                line_bytes.div_ceil(4 * self.tiles.count)
            } else {
                0
            };
            let next = held.wrapping_add(self.panel_bytes + self.held.terms(self.terms.0, width));
            let ahead = |t: usize, line: usize| Ahead {
                from: (next.wrapping_add((t * k / U::TERMS + line) * lines * 64)).cast(),
                lines,
                step: 0,
            };
            let all = k.div_ceil(U::TERMS);
            let in_parts = all > U::RESIDENT;
            if in_parts {
                let parts = all.div_ceil(U::RESIDENT);
                for part in 0..parts {
                    let (from, to) = chunk(all, parts, part);
                    for t in 0..self.tiles.count {
                        let (row, rows) = self.tiles.get(t);
                        let a = self.a.add(row * self.row_size + from * rows * LINE);
                        let a = Shifted::packed(a, rows, to - from);
                        let b = b.add(from * LINE * width);
                        let sums = self.sums.add(row * width);
                        U::shifted(rows, a, b, ahead(t, from), sums, from > 0);
                    }
                }
            }
            for t in 0..self.tiles.count {
                let (row, rows) = self.tiles.get(t);
                let at = (first_row + row, panel);
                let scales = [self.scales.add(row), held.cast()];
                if in_parts {
                    let sums = self.sums.add(row * width);
                    let scales = (|r: usize| *scales[0].add(r), scales[1]);
                    U::finish_shifted(rows, registers, sums, scales, at, finish);
                } else {
                    let a = self.a.add(row * self.row_size);
                    let ahead = ahead(t, 0);
                    U::tile(rows, registers, k, [a, b], scales, ahead, at, finish);
                }
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
    /// Row parts whose rows of A fit [`BLOCK`] `lines` at a time, and enough tasks for every thread
    /// to have a few.
    fn new(rows: usize, lines: usize, panels: usize, b: &PackedMatrix) -> Self {
        let threads = rayon::current_num_threads();
        let tile = b.products.rows(b.isa);
        let tallest = (BLOCK / (lines * LINE).max(1)).max(tile);
        let wanted = if threads == 1 { 1 } else { 4 * threads };
        let mut row_parts = rows.div_ceil(tallest);
        let mut panel_parts = 1;
        // Cutting rows keeps A packed once; below a few tiles a chunk, B is cut instead.
        while row_parts * panel_parts < wanted {
            if rows / (2 * row_parts) >= 4 * tile {
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

    /// The rows of one part: of whole tiles, where these are filled.
    fn rows(self, rows: usize, part: usize, b: &PackedMatrix) -> (usize, usize) {
        if !b.products.fills_tiles() {
            return chunk(rows, self.row_parts, part);
        }
        let height = b.products.rows(b.isa);
        let (from, to) = chunk(rows.div_ceil(height), self.row_parts, part);
        (from * height, (to * height).min(rows))
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
        let block = self.rows(rows, task / self.panel_parts, b);
        let count = lines.1 - lines.0;
        // A tile reads whole ones of its unit's: those rows are not used.
        let beyond = b.products.rows(b.isa);
        let size = ((block.1 - block.0) * count + beyond) * LINE;
        let (single, width) = (b.products.is_f32(), 2 * b.isa.lanes());
        let wide = b.held.room(single, count * b.products.terms(), width);
        let scales = (block.1 - block.0).next_multiple_of(LINE);
        let sums = match count > b.products.resident() {
            true => (block.1 - block.0).next_multiple_of(beyond) * width,
            false => 0,
        };
        with_scratch(size + wide + scales + sums, |a| {
            b.products.multiply(
                b.isa,
                Task {
                    a,
                    // SAFETY: inside the scratch memory, or its end.
                    wide: unsafe { a.add(size) },
                    // SAFETY: as above.
                    scales: unsafe { a.add(size + wide) },
                    // SAFETY: as above.
                    sums: unsafe { a.add(size + wide + scales) },
                    block,
                    lines,
                    panels: chunk(panels, self.panel_parts, task % self.panel_parts),
                    b,
                    source,
                    finish,
                },
            );
        });
    }
}

/// C = A·B with the depth cut into parts that add up in C.
pub(crate) fn product(rows: usize, source: impl Source, b: &PackedMatrix, store: Store) {
    let panels = b.columns.div_ceil(2 * b.isa.lanes());
    let terms = b.products.terms();
    let lines = b.depth.div_ceil(terms);
    let parts = lines.div_ceil(b.products.depth() / terms);
    let grid = Grid::new(rows, lines.div_ceil(parts.max(1)), panels, b);
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
    let lines = b.depth.div_ceil(b.products.terms());
    let grid = Grid::new(rows, lines, panels, b);
    for_each(grid.row_parts * grid.panel_parts, |task| {
        grid.task(rows, panels, (0, lines), task, b, source, f);
    });
}

/// One block of rows, one part of the depth, some panels.
struct Task<'a, S, F> {
    a: *mut f32,
    wide: *mut f32,
    scales: *mut f32,
    sums: *mut f32,
    block: (usize, usize),
    lines: (usize, usize),
    panels: (usize, usize),
    b: &'a PackedMatrix,
    source: S,
    finish: F,
}

impl<S: Source, F: Finish> UnitKernel for Task<'_, S, F> {
    #[inline(always)]
    unsafe fn run<V: Vector, U: Unit<V>>(self) {
        let (first_row, end_row) = self.block;
        let (first_line, end_line) = self.lines;
        let lines = end_line - first_line;
        let tiles = Tiles::of::<V, U>(end_row - first_row);
        for t in 0..tiles.count {
            let (row, rows) = tiles.get(t);
            let to = self.a.add(row * lines * LINE);
            let at = (first_row + row, rows);
            let room = [self.wide, self.scales.add(row)];
            U::pack(self.source, at, (first_line, lines), self.b.depth, to, room);
        }
        let first = first_line * U::TERMS;
        let panels = Panels {
            a: self.a,
            tiles,
            row_size: lines * LINE,
            b: self.b.as_ptr(),
            held: self.b.held,
            panel_bytes: self.b.panel_bytes(),
            wide: self.wide,
            sums: self.sums,
            scales: self.scales,
            terms: (first, self.b.depth.min(end_line * U::TERMS)),
            unit: (self.b.isa, self.b.products),
        };
        U::begin();
        panels.run::<V, U>(self.panels, self.b.columns, first_row, self.finish);
        U::end();
    }
}
