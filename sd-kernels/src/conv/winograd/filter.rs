//! The weight's transform, G g Gᵀ.

use std::mem::MaybeUninit;

use super::scheme::Scheme;
use super::{Layer, Shared};
use crate::blocks::Expand;
use crate::buffer::LINE;
use crate::held::Held;
use crate::products::Products;
use crate::simd::{Kernel, Vector};
use crate::weight::DType;

/// Nine taps of a line of inputs of a panel.
#[repr(C, align(64))]
struct Taps([f32; 9 * LINE * 32]);

impl<S: Scheme<IN, OUT>, const IN: usize, const OUT: usize> Layer<'_, S, IN, OUT> {
    /// Transforms `inputs` (from, to) of a panel: `to` becomes `[IN²]` right-hand matrices
    /// `[inputs][width]`.
    pub(super) fn filter(&self, panel: usize, inputs: (usize, usize), to: Shared) {
        let (isa, width, held) = (self.weight.isa, self.width, self.weight.held());
        // SAFETY: a panel of the weight, which has it.
        let from = unsafe { self.weight.as_ptr().add(panel * self.weight.panel_bytes()) };
        let all = Filter::<S, IN, OUT> {
            from,
            dtype: DType::F32,
            // A panel of the weight is `[9][inputs][width]`.
            inputs: self.inputs,
            first: inputs.0,
            len: (inputs.1 - inputs.0) * width,
            to: to.get(),
            position: self.position(inputs.1 - inputs.0),
            scheme: self.scheme,
        };
        match held {
            Held::Numbers(dtype) => isa.run(Filter { dtype, ..all }),
            Held::Pairs | Held::Int8 => debug_assert!(false, "Winograd multiplies no {held:?}"),
            Held::Blocks(blocks) => {
                let mut taps = MaybeUninit::<Taps>::uninit();
                let wide = taps.as_mut_ptr().cast::<f32>();
                for first in (inputs.0..inputs.1).step_by(LINE) {
                    for tap in 0..9 {
                        let from_term = tap * self.inputs + first;
                        let expand = Expand {
                            blocks,
                            from,
                            terms: (from_term, from_term + LINE),
                            // SAFETY: a panel has at most 32 columns, and inputs are whole lines.
                            to: unsafe { wide.add(tap * LINE * width) },
                        };
                        Products::F32.run(isa, expand);
                    }
                    isa.run(Filter {
                        from: wide.cast_const().cast(),
                        inputs: LINE,
                        first: 0,
                        len: LINE * width,
                        // SAFETY: a line of inputs within each matrix.
                        to: unsafe { all.to.add((first - inputs.0) * width) },
                        ..all
                    });
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Filter<S, const IN: usize, const OUT: usize> {
    from: *const u8,
    dtype: DType,
    /// Inputs of a tap, and the first to transform.
    inputs: usize,
    first: usize,
    /// Numbers to transform.
    len: usize,
    to: *mut f32,
    /// f32 from one position to the next.
    position: usize,
    scheme: std::marker::PhantomData<S>,
}

impl<S: Scheme<IN, OUT>, const IN: usize, const OUT: usize> Kernel for Filter<S, IN, OUT> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for at in (0..self.len).step_by(V::LANES) {
            let (input, column) = (self.first + at / (2 * V::LANES), at % (2 * V::LANES));
            let mut half = [[V::zero(); 3]; IN];
            for j in 0..3 {
                let mut taps = [V::zero(); 3];
                for (i, tap) in taps.iter_mut().enumerate() {
                    let term = (3 * i + j) * self.inputs + input;
                    *tap = self.dtype.load(self.from, term * 2 * V::LANES + column);
                }
                for (row, x) in half.iter_mut().zip(S::filter(taps)) {
                    row[j] = x;
                }
            }
            for (i, row) in half.into_iter().enumerate() {
                for (j, x) in S::filter(row).into_iter().enumerate() {
                    x.store(self.to.add((i * IN + j) * self.position + at));
                }
            }
        }
    }
}
