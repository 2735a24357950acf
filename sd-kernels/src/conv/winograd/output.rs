//! The way back to pixels, Aᵀ m A.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::multiply::Sums;
use super::scheme::Scheme;
use super::{Block, Layer};
use crate::simd::{Kernel, Vector};

impl<S: Scheme<IN, OUT>, const IN: usize, const OUT: usize> Layer<'_, S, IN, OUT> {
    /// Writes one panel's outputs of some matrix tiles.
    pub(super) fn output(&self, block: &Block, tiles: (usize, usize), panel: usize, sums: Sums) {
        self.weight.isa.run(Output::<S, IN, OUT> {
            block,
            tiles,
            panel,
            sums,
            scheme: PhantomData,
        });
    }
}

struct Output<'a, S, const IN: usize, const OUT: usize> {
    block: &'a Block,
    tiles: (usize, usize),
    panel: usize,
    sums: Sums,
    scheme: PhantomData<S>,
}

impl<S: Scheme<IN, OUT>, const IN: usize, const OUT: usize> Kernel for Output<'_, S, IN, OUT> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (block, call) = (self.block, &self.block.call);
        let width = 2 * V::LANES;
        let first = block.tiles.start(self.tiles.0);
        let mut outputs = [[V::zero(); OUT]; OUT];
        for tile in first..block.tiles.start(self.tiles.1) {
            let (n, y, x) = block.origin::<OUT>(tile);
            let pixel = (n * call.out_height + y) * call.out_width + x;
            let height = (call.out_height - y).min(OUT);
            let width_inside = (call.out_width - x).min(OUT);
            let sums = self.sums.data.get().add((tile - first) * width);
            let end = call.outputs.min((self.panel + 1) * width);
            for c in (self.panel * width..end).step_by(V::LANES) {
                let count = (end - c).min(V::LANES);
                let sums = sums.add(c - self.panel * width);
                transform::<V, S, IN, OUT>(sums, self.sums.size, &mut outputs);
                let bias = if call.bias.is_null() {
                    V::zero()
                } else {
                    V::load_up_to(call.bias.add(c), count)
                };
                for (i, row) in outputs.iter().enumerate().take(height) {
                    for (j, x) in row.iter().enumerate().take(width_inside) {
                        let at = (pixel + i * call.out_width + j) * call.outputs + c;
                        let mut x = call.activation.apply(x.add(bias));
                        if !call.residual.is_null() {
                            x = x.add(V::load_up_to(call.residual.add(at), count));
                        }
                        if call.rectified {
                            x = V::zero().max(x);
                        }
                        x.store_up_to(call.out.get().add(at), count);
                    }
                }
            }
        }
    }
}

/// One tile and `V::LANES` channels.
#[inline(always)]
unsafe fn transform<V: Vector, S: Scheme<IN, OUT>, const IN: usize, const OUT: usize>(
    sums: *const f32,
    stride: usize,
    outputs: &mut [[V; OUT]; OUT],
) {
    let mut half = MaybeUninit::<[[V; IN]; OUT]>::uninit();
    let half = half.as_mut_ptr().cast::<V>();
    for j in 0..IN {
        let mut m = [V::zero(); IN];
        for (i, m) in m.iter_mut().enumerate() {
            *m = V::load(sums.add((i * IN + j) * stride));
        }
        for (i, x) in S::output(m).into_iter().enumerate() {
            half.add(i * IN + j).write(x);
        }
    }
    for (i, to) in outputs.iter_mut().enumerate() {
        *to = S::output(half.add(i * IN).cast::<[V; IN]>().read());
    }
}
