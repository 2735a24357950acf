//! 3×3 convolution with stride 1 through Winograd's transforms.
//!
//! Pictures are cut into tiles of `OUT` × `OUT` outputs. A block of tiles is transformed (`IN`²
//! numbers per tile and channel), multiplied with the transformed weight, one matrix product per
//! each of the `IN`² positions, and transformed back.
//!
//! The weight lies in memory as the direct convolution has it and is transformed on the way: once
//! per block of tiles for a panel of outputs, which is a few hundredths of the work, against three
//! or more times the memory if it were kept transformed. Where the whole transformed weight fits
//! the last-level cache, once per call.

mod filter;
mod input;
mod multiply;
mod output;
mod scheme;

use std::marker::PhantomData;

pub(super) use scheme::{F2, F4, F6};

use self::scheme::Scheme;
use super::geometry::{ConvShape, Pixels};
use crate::buffer::{LINE, Shared, with_scratch};
use crate::gemm::{Activation, PackedMatrix, Tiles};
use crate::parallel::{chunk, for_each};
use crate::simd::Isa;

/// f32 of a transformed weight that all threads share: half of a last-level cache.
const WHOLE: usize = 4 << 20;

/// f32 of a transformed weight that a thread makes for itself: half of a 1 MiB second-level cache.
const CHUNK: usize = 144 * 1024;

/// Tiles of a block where the transformed weight is shared: enough for each panel of the weight to
/// be used four times, few enough for both sides of the products to stay in the cache.
const TILES: usize = 56;

/// Most tiles of a block where the weight is transformed for the block alone.
const MOST_TILES: usize = 128;

/// f32 of transformed input that all threads share.
const INPUT: usize = 8 << 20;

/// Slices that one convolution reads and writes, and its settings.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) input: Pixels,
    pub(crate) out: Shared,
    pub(crate) out_height: usize,
    pub(crate) out_width: usize,
    pub(crate) outputs: usize,
    /// The input's row under the kernel's first at the first output row.
    pub(crate) first_row: isize,
    /// Zeros at the left of the input.
    pub(crate) pad: usize,
    /// Null where absent.
    pub(crate) bias: *const f32,
    /// Null where absent; laid out as the output.
    pub(crate) residual: *const f32,
    pub(crate) activation: Activation,
    pub(crate) rectified: bool,
}

// SAFETY: the constant pointers are read only, and tiles write pixels of their own.
unsafe impl Send for Call {}
// SAFETY: as above.
unsafe impl Sync for Call {}

/// The convolution of `call` with `weight`, `[9 · inputs]` rows in the order (tap, input); the
/// inputs are a multiple of 16.
pub(super) fn forward<S: Scheme<IN, OUT>, const IN: usize, const OUT: usize>(
    weight: &PackedMatrix,
    call: Call,
) {
    let grid = [call.out_height, call.out_width].map(|side| side.div_ceil(OUT));
    let layer = Layer::<S, IN, OUT> {
        call,
        weight,
        grid,
        inputs: call.input.channels,
        width: 2 * weight.isa.lanes(),
        panels: call.outputs.div_ceil(2 * weight.isa.lanes()),
        scheme: PhantomData,
    };
    let total = call.input.picture.n * grid[0] * grid[1];
    let whole = layer.panels * layer.panel(layer.inputs);
    let (blocks, threads) = (total.div_ceil(TILES), rayon::current_num_threads());
    if whole <= WHOLE && blocks >= 2 * threads {
        // As many for each thread: of seven in a strip of a picture, two threads would do four.
        let blocks = blocks.next_multiple_of(threads);
        with_scratch(whole, |to| layer.share_weight(total, blocks, Shared(to)));
    } else {
        let most = (INPUT / (IN * IN * layer.inputs)).clamp(1, MOST_TILES);
        let blocks = total.div_ceil(most);
        for index in 0..blocks {
            layer.share_input(chunk(total, blocks, index));
        }
    }
}

/// f32 of scratch memory that [`forward`] takes: of all threads together, and of each of so many.
pub(super) fn scratch<const IN: usize, const OUT: usize>(
    isa: Isa,
    shape: ConvShape,
    (n, height, width): (usize, usize, usize),
    threads: usize,
) -> [usize; 2] {
    let total = n * height.div_ceil(OUT) * width.div_ceil(OUT);
    let (inputs, columns) = (shape.inputs, 2 * isa.lanes());
    let panels = shape.outputs.div_ceil(columns);
    let panel = |inputs: usize| IN * IN * odd(inputs * columns);
    let sums = |rows: usize| IN * IN * odd(rows * columns);
    let input = |tiles: usize| IN * IN * odd(tiles * inputs);
    let whole = panels * panel(inputs);
    let blocks = total.div_ceil(TILES);
    if whole <= WHOLE && blocks >= 2 * threads {
        let tiles = total.div_ceil(blocks.next_multiple_of(threads));
        return [whole, input(tiles) + sums(tiles)];
    }
    let most = (INPUT / (IN * IN * inputs)).clamp(1, MOST_TILES);
    let tiles = total.div_ceil(total.div_ceil(most));
    let size = (CHUNK / (IN * IN * columns) / LINE).max(1) * LINE;
    let chunks = inputs.div_ceil(size);
    let longest = inputs.div_ceil(chunks).next_multiple_of(LINE);
    [input(tiles), panel(longest) + sums(tiles)]
}

#[derive(Clone, Copy)]
struct Layer<'a, S, const IN: usize, const OUT: usize> {
    call: Call,
    weight: &'a PackedMatrix,
    /// Tiles down and across a picture.
    grid: [usize; 2],
    inputs: usize,
    /// Outputs of a panel of the weight.
    width: usize,
    panels: usize,
    scheme: PhantomData<S>,
}

impl<S: Scheme<IN, OUT>, const IN: usize, const OUT: usize> Layer<'_, S, IN, OUT> {
    /// f32 from one position of a transformed panel to the next, for `inputs` of its inputs.
    fn position(&self, inputs: usize) -> usize {
        odd(inputs * self.width)
    }

    /// f32 of a transformed panel.
    fn panel(&self, inputs: usize) -> usize {
        IN * IN * self.position(inputs)
    }

    fn block(&self, (first, end): (usize, usize), input: Shared) -> Block {
        let tiles = Tiles::new(end - first, self.weight.isa.rows());
        Block {
            call: self.call,
            grid: self.grid,
            first,
            tiles,
            input,
            input_size: odd(tiles.rows * self.inputs),
            inputs: self.inputs,
        }
    }

    /// Transforms the weight at once; every thread then goes through blocks of its own.
    fn share_weight(&self, total: usize, blocks: usize, to: Shared) {
        let panel_size = self.panel(self.inputs);
        let panel = |index: usize| {
            // SAFETY: each panel has a part of its own.
            Shared(unsafe { to.get().add(index * panel_size) })
        };
        for_each(self.panels, |index| {
            self.filter(index, (0, self.inputs), panel(index));
        });
        for_each(blocks, |index| {
            let range = chunk(total, blocks, index);
            let sizes = self.block(range, to);
            let sums = multiply::Sums::new(sizes.tiles.rows, self.width);
            let input_len = IN * IN * sizes.input_size;
            with_scratch(input_len + IN * IN * sums.size, |memory| {
                let block = self.block(range, Shared(memory));
                // SAFETY: behind the input.
                let sums = sums.at(Shared(unsafe { memory.add(input_len) }));
                self.input(&block, (0, block.tiles.count), (0, self.inputs));
                for index in 0..self.panels {
                    let all = (0, block.tiles.count);
                    self.multiply(&block, all, index, (0, self.inputs), panel(index), sums);
                    self.output(&block, all, index, sums);
                }
            });
        });
    }

    /// Transforms the input of a block at once; every thread then makes panels of its own.
    fn share_input(&self, range: (usize, usize)) {
        let size = self.block(range, Shared(std::ptr::null_mut())).input_size;
        with_scratch(IN * IN * size, |memory| {
            let block = self.block(range, Shared(memory));
            let threads = rayon::current_num_threads();
            let wanted = if threads == 1 { 1 } else { 4 * threads };
            let tiles = block.tiles.count;

            let lines = self.inputs / LINE;
            let parts = wanted.div_ceil(tiles).min(lines);
            for_each(tiles * parts, |task| {
                let (tile, lines) = (task / parts, chunk(lines, parts, task % parts));
                self.input(&block, (tile, tile + 1), (lines.0 * LINE, lines.1 * LINE));
            });

            let size = (CHUNK / (IN * IN * self.width) / LINE).max(1) * LINE;
            let chunks = self.inputs.div_ceil(size);
            let longest = self.inputs.div_ceil(chunks).next_multiple_of(LINE);
            let parts = wanted.div_ceil(self.panels).min(tiles);
            for_each(self.panels * parts, |task| {
                let (panel, tiles) = (task / parts, chunk(tiles, parts, task % parts));
                let rows = block.tiles.start(tiles.1) - block.tiles.start(tiles.0);
                let sums = multiply::Sums::new(rows, self.width);
                let weight_len = self.panel(longest);
                with_scratch(weight_len + IN * IN * sums.size, |memory| {
                    let weight = Shared(memory);
                    // SAFETY: behind the weight.
                    let sums = sums.at(Shared(unsafe { memory.add(weight_len) }));
                    for index in 0..chunks {
                        let lines = chunk(lines, chunks, index);
                        let inputs = (lines.0 * LINE, lines.1 * LINE);
                        self.filter(panel, inputs, weight);
                        self.multiply(&block, tiles, panel, inputs, weight, sums);
                    }
                    self.output(&block, tiles, panel, sums);
                });
            });
        });
    }
}

/// An odd number of lines between matrices that are used side by side keeps them off one cache set.
fn odd(size: usize) -> usize {
    (size.div_ceil(LINE) | 1) * LINE
}

/// A block of tiles and its transformed input.
#[derive(Clone, Copy)]
struct Block {
    call: Call,
    grid: [usize; 2],
    /// First tile of the block.
    first: usize,
    /// The block's tiles as rows of left-hand matrices.
    tiles: Tiles,
    /// `[IN²]` left-hand matrices in the packed order of [`tile`](crate::gemm::tile), `input_size`
    /// apart.
    input: Shared,
    input_size: usize,
    inputs: usize,
}

impl Block {
    /// Picture, and the first output row and column of a tile.
    #[inline(always)]
    fn origin<const OUT: usize>(&self, tile: usize) -> (usize, usize, usize) {
        let [down, across] = self.grid;
        let index = self.first + tile;
        let (n, rest) = (index / (down * across), index % (down * across));
        (n, rest / across * OUT, rest % across * OUT)
    }
}
