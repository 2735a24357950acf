//! The input's transform, Bᵀ d B.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::scheme::Scheme;
use super::{Block, Layer};
use crate::buffer::LINE;
use crate::simd::{Kernel, Vector};

impl<S: Scheme<IN, OUT>, const IN: usize, const OUT: usize> Layer<'_, S, IN, OUT> {
    /// Transforms some matrix tiles and channels, multiples of 16 (from, to).
    pub(super) fn input(&self, block: &Block, tiles: (usize, usize), channels: (usize, usize)) {
        self.weight.isa.run(Input::<S, IN, OUT> {
            block,
            tiles,
            channels,
            scheme: PhantomData,
        });
    }
}

struct Input<'a, S, const IN: usize, const OUT: usize> {
    block: &'a Block,
    tiles: (usize, usize),
    channels: (usize, usize),
    scheme: PhantomData<S>,
}

impl<S: Scheme<IN, OUT>, const IN: usize, const OUT: usize> Kernel for Input<'_, S, IN, OUT> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let block = self.block;
        let pad = block.call.pad as isize;
        let next = (OUT * block.inputs) >> u32::from(block.call.input.upsample);
        for t in self.tiles.0..self.tiles.1 {
            let (first, rows) = block.tiles.get(t);
            for r in 0..rows {
                let (n, y, x) = block.origin::<OUT>(first + r);
                let mut pixels = [[None; IN]; IN];
                for (i, row) in pixels.iter_mut().enumerate() {
                    for (j, pixel) in row.iter_mut().enumerate() {
                        let y = (y + i) as isize + block.call.first_row;
                        let x = (x + j) as isize - pad;
                        *pixel = block.call.input.at(n, y, x);
                    }
                }
                let to = block.input.get().add(first * block.inputs + r * LINE);
                for c in (self.channels.0..self.channels.1).step_by(V::LANES) {
                    let to = to.add(c / LINE * rows * LINE + c % LINE);
                    transform::<V, S, IN, OUT>(&pixels, next, c, to, block.input_size);
                }
            }
        }
    }
}

/// One tile, `V::LANES` channels from `c`; `next` f32 on are those of the tile at the right.
#[inline(always)]
unsafe fn transform<V: Vector, S: Scheme<IN, OUT>, const IN: usize, const OUT: usize>(
    pixels: &[[Option<*const f32>; IN]; IN],
    next: usize,
    c: usize,
    to: *mut f32,
    stride: usize,
) {
    // Too large for the registers, and not filled with zeros before it is written.
    let mut half = MaybeUninit::<[[V; IN]; IN]>::uninit();
    let half = half.as_mut_ptr().cast::<V>();
    for j in 0..IN {
        let mut d = [V::zero(); IN];
        for (d, row) in d.iter_mut().zip(pixels) {
            if let Some(pixel) = row[j] {
                if j >= IN - OUT {
                    // New to the tile at the right: the processor does not foresee six short runs.
                    V::prefetch(pixel.wrapping_add(c + next));
                }
                *d = V::load(pixel.add(c));
            }
        }
        let d = S::input(d);
        for (i, x) in d.into_iter().enumerate() {
            half.add(i * IN + j).write(x);
        }
    }
    for i in 0..IN {
        let row = S::input(half.add(i * IN).cast::<[V; IN]>().read());
        for (j, x) in row.into_iter().enumerate() {
            x.store(to.add((i * IN + j) * stride));
        }
    }
}
