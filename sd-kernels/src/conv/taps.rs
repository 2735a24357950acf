//! Convolution with stride 1 as products of shifted pictures: a strip of the input is rounded once, to
//! bf16 or int8, with its padding around it, and what lies under a tap of so many output pixels beside each
//! other is a matrix in it, whose rows are a pixel apart.
//!
//! Outputs of a row end where its padding begins, and those of the next one begin behind it: sums are
//! made of what lies in between too, and not used.

use super::geometry::ConvShape;
use super::rows::PixelRows;
use super::scales::scales;
use super::winograd::Call;
use crate::buffer::{LINE, with_scratch};
use crate::gemm::{Ahead, PackedMatrix, Store, Tiles};
use crate::held::Held;
use crate::norm::Segments;
use crate::parallel::{chunk, for_each};
use crate::products::{PAIRED, Products, Shifted, Unit, UnitKernel};
use crate::simd::Vector;

/// Most f32 of a rounded strip: half of a 2 MiB second-level cache, which all processors with AMX have.
const STRIP: usize = 256 * 1024;

/// Most pixels of it: their sums take 128 KiB and want to stay in that cache too.
const PIXELS: usize = 1024;

/// Most outputs beside each other in a strip.
const WIDEST: usize = 64;

/// Lines of the depth that are multiplied at once, or a few more, so that a panel's stay in the
/// first-level cache.
const LINES: usize = 12;

/// f32 beyond a pixel that are asked for when it is rounded: a normalisation's many instructions leave
/// the processor too few loads in sight to do that by itself.
const AHEAD: usize = 1024;

/// True for a convolution that can be computed so by products that [convolve].
///
/// [convolve]: crate::Products::convolves
pub(super) fn fits(products: Products, shape: ConvShape) -> bool {
    let whole = shape.inputs > 0 && shape.inputs.is_multiple_of(products.terms());
    products.convolves() && shape.stride == 1 && shape.kernel > 1 && whole
}

/// True where each pixel is rounded but once, at the borders of strips twice: then it may be normalised
/// on that way.
pub(super) fn rounds_once(weight: &PackedMatrix, shape: ConvShape, call: Call) -> bool {
    let [.., panels] = parts(weight, shape, call);
    panels == 1
}

pub(super) fn forward(
    weight: &PackedMatrix,
    shape: ConvShape,
    call: Call,
    store: Store,
    input: &PixelRows,
    segments: Option<&Segments>,
) {
    let scales = match weight.held {
        Held::Int8 => scales(weight.isa, call.input),
        _ => vec![[1.0; 2]; call.input.picture.n],
    };
    let layer = Layer {
        weight,
        shape,
        call,
        store,
        input,
        segments,
        scales: &scales,
        parts: parts(weight, shape, call),
    };
    for_each(layer.parts.iter().product(), |task| {
        let strip = layer.strip(task);
        with_scratch(strip.size(), |memory| {
            let products = weight.products;
            products.multiply(weight.isa, strip.at(memory));
        });
    });
}

/// Pixels of a strip, each of so many f32, unless one row of outputs needs more.
fn pixels(pixel: usize) -> usize {
    (STRIP / pixel).min(PIXELS)
}

/// f32 of scratch memory that each thread takes at most, where the weight needs no other layout.
pub(super) fn scratch(shape: ConvShape) -> usize {
    if shape.inputs < PAIRED {
        return 0;
    }
    let pixels = pixels(shape.inputs / 2).max((WIDEST + shape.kernel) * shape.kernel) + 2 * LINE;
    pixels * (shape.inputs / 2 + 2 * LINE)
}

/// Sums of all rows of the output of one picture, in the pieces that are made of these.
pub(super) fn segments(call: Call) -> Segments {
    let columns = columns(call);
    let piece = |column| {
        let (from, end) = chunk(call.out_width, columns, column);
        end - from
    };
    let pixels = (0..columns).map(piece).collect();
    Segments::new(call.out_height, pixels, call.outputs)
}

/// Parts of a row.
fn columns(call: Call) -> usize {
    call.out_width.div_ceil(WIDEST)
}

/// Pictures, and parts of their rows, of their columns and of the panels.
fn parts(weight: &PackedMatrix, shape: ConvShape, call: Call) -> [usize; 4] {
    let pixels = pixels(shape.inputs / weight.products.terms() * LINE);
    let (n, height, width) = (call.input.picture.n, call.out_height, call.out_width);
    let beyond = shape.kernel - 1;
    let columns = columns(call);
    let row = width.div_ceil(columns) + beyond;
    let tallest = (pixels / row).saturating_sub(beyond).max(1);
    let mut rows = height.div_ceil(tallest);
    let panels = weight.columns.div_ceil(2 * weight.isa.lanes());
    let mut panel_parts = 1;
    let threads = rayon::current_num_threads();
    let wanted = if threads == 1 { 1 } else { 4 * threads };
    // Rows are rounded again by each part that sees them, which costs little where panels are many.
    while n * columns * rows * panel_parts < wanted {
        if height / (2 * rows) >= 16 {
            rows *= 2;
        } else if panels / (2 * panel_parts) >= 4 {
            panel_parts *= 2;
        } else {
            break;
        }
    }
    [n, rows, columns, panel_parts]
}

#[derive(Clone, Copy)]
struct Layer<'a> {
    weight: &'a PackedMatrix,
    shape: ConvShape,
    call: Call,
    store: Store,
    input: &'a PixelRows,
    /// What is measured of the output.
    segments: Option<&'a Segments>,
    /// Of each picture, and what its numbers are multiplied with before they are rounded.
    scales: &'a [[f32; 2]],
    /// Those that [`parts`] gave.
    parts: [usize; 4],
}

impl<'a> Layer<'a> {
    fn strip(&self, task: usize) -> Strip<'a> {
        let [_, rows, columns, panels] = self.parts;
        let (rest, panel) = (task / panels, task % panels);
        let (rest, column) = (rest / columns, rest % columns);
        let (picture, row) = (rest / rows, rest % rows);
        let all = self.weight.columns.div_ceil(2 * self.weight.isa.lanes());
        let from_to = chunk(self.call.out_width, columns, column);
        Strip {
            layer: *self,
            picture,
            rows: chunk(self.call.out_height, rows, row),
            column,
            columns: from_to,
            panels: chunk(all, panels, panel),
            pitch: from_to.1 - from_to.0 + self.shape.kernel - 1,
            memory: std::ptr::null_mut(),
        }
    }
}

/// Some rows and columns of the output, and the panels of the weight that are multiplied for them.
#[derive(Clone, Copy)]
struct Strip<'a> {
    layer: Layer<'a>,
    picture: usize,
    rows: (usize, usize),
    /// The part of each row, and its columns.
    column: usize,
    columns: (usize, usize),
    panels: (usize, usize),
    /// Pixels from one row of the strip to the next.
    pitch: usize,
    memory: *mut f32,
}

impl Strip<'_> {
    fn at(self, memory: *mut f32) -> Self {
        Self { memory, ..self }
    }

    /// f32 of a rounded pixel.
    fn pixel(&self) -> usize {
        let Layer { shape, weight, .. } = self.layer;
        shape.inputs / weight.products.terms() * LINE
    }

    /// f32 of the rounded strip, and of what tiles read beyond it.
    fn input(&self) -> usize {
        let rows = self.rows.1 - self.rows.0 + self.layer.shape.kernel - 1;
        (rows * self.pitch + 2 * LINE) * self.pixel()
    }

    /// Outputs, those in the padding too: all but what lies behind the last.
    fn outputs(&self) -> usize {
        (self.rows.1 - self.rows.0) * self.pitch - (self.layer.shape.kernel - 1)
    }

    /// f32 of the sums.
    fn sums(&self) -> usize {
        self.outputs().next_multiple_of(2 * LINE) * 2 * self.layer.weight.isa.lanes()
    }

    /// f32 of a pixel before it is rounded, normalised.
    fn pixel_before(&self) -> usize {
        self.layer.shape.inputs.next_multiple_of(LINE)
    }

    /// f32 of all the memory it needs.
    fn size(&self) -> usize {
        let weight = self.layer.weight;
        let lines = LINES + self.layer.shape.kernel;
        let wide = (weight.held).room(false, lines * PAIRED, 2 * weight.isa.lanes());
        self.input() + self.sums() + wide + self.pixel_before()
    }

    /// Rounds the input, normalised or as it is, zero in the padding.
    #[inline(always)]
    unsafe fn round<V: Vector, U: Unit<V>>(&self, normed: *mut f32) {
        let Layer {
            call, shape, input, ..
        } = self.layer;
        let lines = shape.inputs / U::TERMS;
        let [_, factor] = self.layer.scales[self.picture];
        let mut to = self.memory;
        for y in self.rows.0..self.rows.1 + shape.kernel - 1 {
            let row = input.row(self.picture, y as isize + call.first_row);
            for x in self.columns.0..self.columns.1 + shape.kernel - 1 {
                let x = x as isize - call.pad as isize;
                match row.and_then(|row| input.pixel(row, x)) {
                    Some(mut pixel) => {
                        for c in (0..shape.inputs).step_by(LINE) {
                            V::prefetch(pixel.wrapping_add(AHEAD + c));
                        }
                        if let Some(factors) = &input.factors {
                            factors.apply_here(self.layer.weight.isa, pixel, 1, normed);
                            pixel = normed;
                        }
                        for l in 0..lines {
                            U::scaled_line(pixel.add(l * U::TERMS), factor, to.add(l * LINE));
                        }
                    }
                    None => to.write_bytes(0, lines * LINE),
                }
                to = to.add(lines * LINE);
            }
        }
        // What tiles read beyond their rows is not used, but read.
        to.write_bytes(0, 2 * LINE * self.pixel());
    }
}

impl UnitKernel for Strip<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector, U: Unit<V>>(self) {
        let Layer {
            weight,
            shape,
            call,
            store,
            segments,
            scales,
            ..
        } = self.layer;
        let [scale, _] = scales[self.picture];
        let width = 2 * V::LANES;
        let sums = self.memory.add(self.input());
        let normed = sums.add(self.sums());
        let wide = normed.add(self.pixel_before());
        self.round::<V, U>(normed);
        let tiles = Tiles::of::<V, U>(self.outputs());
        let per_tap = shape.inputs / U::TERMS;
        let all = shape.kernel * shape.kernel;
        // Taps beside each other lie over nearly the same pixels. Of these as many lines are multiplied
        // under all taps of a row as let them stay in the first-level cache, with the panel's.
        let (group, parts) = match LINES / per_tap {
            taps if taps < shape.kernel => (
                shape.kernel.min(LINES),
                (shape.kernel * per_tap).div_ceil(LINES).min(per_tap),
            ),
            taps => (taps, 1),
        };
        U::begin();
        for panel in self.panels.0..self.panels.1 {
            let held = weight.as_ptr().add(panel * weight.panel_bytes());
            let terms = |line: usize| weight.held.terms(line * U::TERMS, width);
            for step in 0..all.div_ceil(group) * parts {
                let (first, part) = (step / parts * group, step % parts);
                let taps = group.min(all - first);
                let (from, end) = chunk(per_tap, parts, part);
                let lines = end - from;
                let mut offsets = [0; LINES];
                let mut b = [std::ptr::null(); LINES];
                for i in 0..taps {
                    let (row, column) = ((first + i) / shape.kernel, (first + i) % shape.kernel);
                    offsets[i] = ((row * self.pitch + column) * per_tap + from) * LINE;
                    let begin = (first + i) * per_tap;
                    let some = ((begin + from) * U::TERMS, (begin + end) * U::TERMS);
                    let wide = wide.add(i * lines * LINE * width);
                    let unit = (weight.isa, weight.products);
                    b[i] = (weight.held).multiplied::<V, U>(held, some, wide, unit);
                }
                // The tiles together fetch what is multiplied next: the lines behind these, or the next
                // row's.
                let next = match part + 1 < parts {
                    true => first * per_tap + end,
                    false => (first + taps) * per_tap,
                };
                let next = held.wrapping_add(weight.held.head(width) + terms(next));
                let ahead = terms(lines).div_ceil(4 * LINE * tiles.count * lines);
                for t in 0..tiles.count {
                    let (row, rows) = tiles.get(t);
                    let ahead = Ahead {
                        from: (next.wrapping_add(t * ahead * lines * 4 * LINE)).cast(),
                        lines: ahead,
                        step: terms(per_tap),
                    };
                    let shifted = Shifted {
                        from: self.memory.add(row * self.pixel()),
                        pitch: self.pixel(),
                        step: LINE,
                        offsets: offsets.as_ptr(),
                        count: taps,
                        lines,
                        panel: b[1.min(taps - 1)].offset_from(b[0]) as usize,
                    };
                    U::shifted(rows, shifted, b[0], ahead, sums.add(row * width), step > 0);
                }
            }
            let registers = match weight.columns - panel * width > V::LANES {
                true => 2,
                false => 1,
            };
            let (first, end) = self.columns;
            for y in self.rows.0..self.rows.1 {
                let from = sums.add((y - self.rows.0) * self.pitch * width);
                let row = (self.picture * call.out_height + y) * call.out_width + first;
                let at = (row, panel);
                let scales = (|_| scale, held.cast());
                U::finish_shifted(end - first, registers, from, scales, at, store);
                if let Some(segments) = segments {
                    let channels = (panel * width, weight.columns.min((panel + 1) * width));
                    let pixel = store.out.get().add(row * store.stride);
                    segments.measure::<V>((y, self.column), pixel, store.stride, channels);
                }
            }
        }
        U::end();
    }
}
