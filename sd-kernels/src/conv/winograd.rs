//! 3×3 convolution with stride 1 through Winograd's transforms.
//!
//! Pictures are cut into tiles of `OUT` × `OUT` outputs. A block of tiles is transformed (`IN`²
//! numbers per tile and channel), multiplied with the transformed weights, one matrix product per
//! each of the `IN`² positions, and transformed back; the block is small enough for both sides to
//! stay in cache meanwhile.

use std::marker::PhantomData;

use super::geometry::Pixels;
use super::scheme::Scheme;
use crate::buffer::{Buffer, LINE, Shared, with_scratch};
use crate::gemm::{Activation, Panels, Store, Tiles};
use crate::parallel::{for_each, part};
use crate::simd::{Isa, Kernel, Vector};

/// Tiles transformed at once by a thread: enough for each panel of the weight to be used four
/// times, few enough for both sides of the products to stay in the last-level cache.
const ROWS: usize = 56;

/// Bytes of weight that all threads keep in the last-level cache side by side.
const CACHED: usize = 16 << 20;

/// A 3×3 weight, transformed and packed: `[IN²]` matrices as `PackedMatrix` has them.
#[derive(Clone, Debug)]
pub(crate) struct Weight<S, const IN: usize, const OUT: usize> {
    data: Buffer,
    inputs: usize,
    outputs: usize,
    isa: Isa,
    scheme: PhantomData<S>,
}

/// What one convolution reads and writes.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) input: Pixels,
    pub(crate) out: Shared,
    pub(crate) out_height: usize,
    pub(crate) out_width: usize,
    pub(crate) outputs: usize,
    /// Zeros above and at the left of the input.
    pub(crate) pad: usize,
    /// Null where absent.
    pub(crate) bias: *const f32,
    /// Null where absent; laid out as the output.
    pub(crate) residual: *const f32,
    pub(crate) activation: Activation,
}

// SAFETY: the constant pointers are read only, and tiles write pixels of their own.
unsafe impl Send for Call {}
// SAFETY: as above.
unsafe impl Sync for Call {}

impl<S: Scheme<IN, OUT>, const IN: usize, const OUT: usize> Weight<S, IN, OUT> {
    /// Transforms `weight`, `[outputs, inputs, 3, 3]`; `inputs` is a multiple of 16.
    pub(crate) fn new(isa: Isa, weight: &[f32], outputs: usize, inputs: usize) -> Self {
        debug_assert!(inputs.is_multiple_of(LINE) && weight.len() == outputs * inputs * 9);
        let width = 2 * isa.lanes();
        let panels = outputs.div_ceil(width);
        let matrix = panels * width * inputs;
        let mut data = Buffer::zeroed(IN * IN * matrix);
        let to = Shared(data.as_mut_ptr());
        let g = S::filter();
        for_each(panels, |panel| {
            for output in panel * width..outputs.min((panel + 1) * width) {
                for input in 0..inputs {
                    let taps = &weight[(output * inputs + input) * 9..][..9];
                    let at = panel * width * inputs + input * width + output % width;
                    for (u, gu) in g.iter().enumerate() {
                        let row: [f64; 3] = std::array::from_fn(|j| {
                            (0..3).map(|i| gu[i] * f64::from(taps[3 * i + j])).sum()
                        });
                        for (v, gv) in g.iter().enumerate() {
                            let x = row[0] * gv[0] + row[1] * gv[1] + row[2] * gv[2];
                            // SAFETY: inside the buffer; each panel writes its own part.
                            unsafe { *to.get().add((u * IN + v) * matrix + at) = x as f32 };
                        }
                    }
                }
            }
        });
        Self {
            data,
            inputs,
            outputs,
            isa,
            scheme: PhantomData,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.bytes()
    }

    pub(crate) fn forward(&self, call: Call) {
        let down = call.out_height.div_ceil(OUT);
        let across = call.out_width.div_ceil(OUT);
        let total = call.input.picture.n * down * across;
        let grid = (down, across);
        let threads = rayon::current_num_threads();
        let blocks = total.div_ceil(ROWS);
        // A weight beyond the caches' size is read once for all threads; a smaller one serves each
        // thread by itself, if there are blocks enough.
        if self.data.bytes() <= CACHED && blocks >= 2 * threads {
            for_each(blocks, |index| {
                self.run_block(call, grid, part(total, blocks, index), 1);
            });
        } else {
            let blocks = total.div_ceil(ROWS * threads.min(4));
            for index in 0..blocks {
                self.run_block(call, grid, part(total, blocks, index), threads);
            }
        }
    }

    fn run_block(&self, call: Call, grid: (usize, usize), range: (usize, usize), threads: usize) {
        let rows = range.1 - range.0;
        let tiles = Tiles::new(rows, self.isa.rows());
        let columns = self.outputs.next_multiple_of(self.isa.lanes());
        // An odd number of lines between the matrices keeps them off one cache set.
        let odd = |size: usize| ((size / LINE) | 1) * LINE;
        let (input_size, sum_size) = (odd(rows * self.inputs), odd(rows * columns + LINE));
        with_scratch(IN * IN * (input_size + sum_size), |scratch| {
            let input = Shared(scratch);
            // SAFETY: inside the scratch memory.
            let sums = Shared(unsafe { scratch.add(IN * IN * input_size) });
            let block = Block::<S, IN, OUT> {
                call,
                grid,
                first: range.0,
                tiles,
                input,
                input_size,
                sums,
                sum_size,
                columns,
                inputs: self.inputs,
                scheme: PhantomData,
            };
            let parts = |count: usize| {
                if threads == 1 {
                    1
                } else {
                    count.min(4 * threads)
                }
            };
            let count = parts(tiles.count);
            for_each(count, |index| {
                let tiles = part(tiles.count, count, index);
                self.isa.run(Input { block, tiles });
            });
            self.multiply(&block, threads);
            let count = parts(rows);
            for_each(count, |index| {
                let tiles = part(rows, count, index);
                self.isa.run(Output { block, tiles });
            });
        });
    }

    fn multiply(&self, block: &Block<S, IN, OUT>, threads: usize) {
        let width = 2 * self.isa.lanes();
        let panels = self.outputs.div_ceil(width);
        let matrix = panels * width * self.inputs;
        // Enough tasks to share: positions first, then columns.
        let panel_parts = (4 * threads).div_ceil(IN * IN).min(panels);
        let tasks = if threads == 1 {
            1
        } else {
            IN * IN * panel_parts
        };
        let each = IN * IN * panel_parts / tasks;
        let b = self.data.as_ptr();
        let multiply = Multiply {
            block: *block,
            b,
            matrix,
            panels,
            panel_parts,
        };
        for_each(tasks, |task| {
            for index in task * each..(task + 1) * each {
                self.isa.run(multiply.at(index));
            }
        });
    }
}

/// A block of tiles between its transforms.
#[derive(Clone, Copy)]
struct Block<S, const IN: usize, const OUT: usize> {
    call: Call,
    /// Tiles down and across a picture.
    grid: (usize, usize),
    /// First tile of the block.
    first: usize,
    tiles: Tiles,
    /// `[IN²]` left-hand matrices in the packed order of [`Panels`], `input_size` apart.
    input: Shared,
    input_size: usize,
    /// `[IN²][tiles][columns]`, `sum_size` apart.
    sums: Shared,
    sum_size: usize,
    columns: usize,
    inputs: usize,
    scheme: PhantomData<S>,
}

impl<S, const IN: usize, const OUT: usize> Block<S, IN, OUT> {
    /// Picture, and the first output row and column of a tile.
    #[inline(always)]
    fn origin(&self, tile: usize) -> (usize, usize, usize) {
        let (down, across) = self.grid;
        let index = self.first + tile;
        let (n, rest) = (index / (down * across), index % (down * across));
        (n, rest / across * OUT, rest % across * OUT)
    }
}

struct Input<S, const IN: usize, const OUT: usize> {
    block: Block<S, IN, OUT>,
    /// Matrix tiles: from, to.
    tiles: (usize, usize),
}

impl<S: Scheme<IN, OUT>, const IN: usize, const OUT: usize> Kernel for Input<S, IN, OUT> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let block = &self.block;
        let pad = block.call.pad as isize;
        let next = (OUT * block.inputs) >> u32::from(block.call.input.upsample);
        for t in self.tiles.0..self.tiles.1 {
            let (first, rows) = block.tiles.get(t);
            for r in 0..rows {
                let (n, y, x) = block.origin(first + r);
                let mut pixels = [[None; IN]; IN];
                for (i, row) in pixels.iter_mut().enumerate() {
                    for (j, pixel) in row.iter_mut().enumerate() {
                        let y = (y + i) as isize - pad;
                        let x = (x + j) as isize - pad;
                        *pixel = block.call.input.at(n, y, x);
                    }
                }
                let to = block.input.get().add(first * block.inputs + r * LINE);
                for c in (0..block.inputs).step_by(V::LANES) {
                    let to = to.add(c / LINE * rows * LINE + c % LINE);
                    transform_input::<V, S, IN, OUT>(&pixels, next, c, to, block.input_size);
                }
            }
        }
    }
}

/// Bᵀ d B of one tile, `V::LANES` channels from `c`; `next` f32 on are those of the tile at the
/// right.
#[inline(always)]
unsafe fn transform_input<V: Vector, S: Scheme<IN, OUT>, const IN: usize, const OUT: usize>(
    pixels: &[[Option<*const f32>; IN]; IN],
    next: usize,
    c: usize,
    to: *mut f32,
    stride: usize,
) {
    let mut half = [[V::zero(); IN]; IN];
    for j in 0..IN {
        let mut d = [V::zero(); IN];
        for i in 0..IN {
            if let Some(pixel) = pixels[i][j] {
                if j >= IN - OUT {
                    // New to the tile at the right: the processor does not foresee six short runs.
                    V::prefetch(pixel.wrapping_add(c + next));
                }
                d[i] = V::load(pixel.add(c));
            }
        }
        let d = S::input(d);
        for i in 0..IN {
            half[i][j] = d[i];
        }
    }
    for (i, row) in half.into_iter().enumerate() {
        for (j, x) in S::input(row).into_iter().enumerate() {
            x.store(to.add((i * IN + j) * stride));
        }
    }
}

#[derive(Clone, Copy)]
struct Multiply<S, const IN: usize, const OUT: usize> {
    block: Block<S, IN, OUT>,
    b: *const f32,
    matrix: usize,
    panels: usize,
    panel_parts: usize,
}

// SAFETY: `b` is read only; the rest is `Block`'s.
unsafe impl<S: Send, const IN: usize, const OUT: usize> Send for Multiply<S, IN, OUT> {}
// SAFETY: as above; each task writes its own position and columns.
unsafe impl<S: Sync, const IN: usize, const OUT: usize> Sync for Multiply<S, IN, OUT> {}

impl<S: Copy, const IN: usize, const OUT: usize> Multiply<S, IN, OUT> {
    fn at(self, index: usize) -> Position<S, IN, OUT> {
        Position {
            all: self,
            position: index / self.panel_parts,
            panels: part(self.panels, self.panel_parts, index % self.panel_parts),
        }
    }
}

struct Position<S, const IN: usize, const OUT: usize> {
    all: Multiply<S, IN, OUT>,
    position: usize,
    panels: (usize, usize),
}

impl<S, const IN: usize, const OUT: usize> Kernel for Position<S, IN, OUT> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let block = &self.all.block;
        let panels = Panels {
            a: block.input.get().add(self.position * block.input_size),
            tiles: block.tiles,
            row_size: block.inputs,
            b: self.all.b.add(self.position * self.all.matrix),
            panel_size: 2 * V::LANES * block.inputs,
            k: block.inputs,
        };
        let store = Store {
            out: Shared(block.sums.get().add(self.position * block.sum_size)),
            stride: block.columns,
            columns: block.columns,
            accumulate: false,
            last: false,
            bias: std::ptr::null(),
            residual: std::ptr::null(),
            activation: Activation::None,
        };
        panels.run::<V>(self.panels, block.columns, 0, store);
    }
}

struct Output<S, const IN: usize, const OUT: usize> {
    block: Block<S, IN, OUT>,
    tiles: (usize, usize),
}

impl<S: Scheme<IN, OUT>, const IN: usize, const OUT: usize> Kernel for Output<S, IN, OUT> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let block = &self.block;
        let call = &block.call;
        for tile in self.tiles.0..self.tiles.1 {
            let (n, y, x) = block.origin(tile);
            let pixel = (n * call.out_height + y) * call.out_width + x;
            let height = (call.out_height - y).min(OUT);
            let width = (call.out_width - x).min(OUT);
            let sums = block.sums.get().add(tile * block.columns);
            for c in (0..call.outputs).step_by(V::LANES) {
                let count = (call.outputs - c).min(V::LANES);
                let outputs = transform_output::<V, S, IN, OUT>(sums.add(c), block.sum_size);
                let bias = if call.bias.is_null() {
                    V::zero()
                } else {
                    V::load_up_to(call.bias.add(c), count)
                };
                for (i, row) in outputs.into_iter().enumerate().take(height) {
                    for (j, x) in row.into_iter().enumerate().take(width) {
                        let at = (pixel + i * call.out_width + j) * call.outputs + c;
                        let mut x = call.activation.apply(x.add(bias));
                        if !call.residual.is_null() {
                            x = x.add(V::load_up_to(call.residual.add(at), count));
                        }
                        x.store_up_to(call.out.get().add(at), count);
                    }
                }
            }
        }
    }
}

/// Aᵀ m A of one tile and `V::LANES` channels.
#[inline(always)]
unsafe fn transform_output<V: Vector, S: Scheme<IN, OUT>, const IN: usize, const OUT: usize>(
    sums: *const f32,
    stride: usize,
) -> [[V; OUT]; OUT] {
    let mut half = [[V::zero(); IN]; OUT];
    for j in 0..IN {
        let mut m = [V::zero(); IN];
        for (i, m) in m.iter_mut().enumerate() {
            let from = sums.add((i * IN + j) * stride);
            *m = V::load(from);
        }
        for (row, x) in half.iter_mut().zip(S::output(m)) {
            row[j] = x;
        }
    }
    // A loop and not `map`: a closure is compiled without the instruction set unless inlined.
    let mut outputs = [[V::zero(); OUT]; OUT];
    for (to, row) in outputs.iter_mut().zip(half) {
        *to = S::output(row);
    }
    outputs
}
