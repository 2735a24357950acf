//! The weight's transform, G g Gᵀ.

use super::scheme::Scheme;
use super::{Layer, Shared};
use crate::gemm::PackedMatrix;
use crate::simd::{Kernel, Vector};

impl<S: Scheme<IN, OUT>, const IN: usize, const OUT: usize> Layer<'_, S, IN, OUT> {
    /// Transforms `inputs` (from, to) of a panel: `to` becomes `[IN²]` right-hand matrices
    /// `[inputs][width]`.
    pub(super) fn filter(&self, panel: usize, inputs: (usize, usize), to: Shared) {
        self.weight.isa.run(Filter::<S, IN, OUT> {
            weight: self.weight,
            // A panel of the weight is `[9][inputs][width]`.
            first: (panel * 9 * self.inputs + inputs.0) * self.width,
            tap: self.inputs * self.width,
            len: (inputs.1 - inputs.0) * self.width,
            to: to.get(),
            position: self.position(inputs.1 - inputs.0),
            scheme: self.scheme,
        });
    }
}

struct Filter<'a, S, const IN: usize, const OUT: usize> {
    weight: &'a PackedMatrix,
    /// The first number to read.
    first: usize,
    /// Numbers from one tap to the next.
    tap: usize,
    len: usize,
    to: *mut f32,
    /// f32 from one position to the next.
    position: usize,
    scheme: std::marker::PhantomData<S>,
}

impl<S: Scheme<IN, OUT>, const IN: usize, const OUT: usize> Kernel for Filter<'_, S, IN, OUT> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (weight, dtype) = (self.weight.as_ptr(), self.weight.dtype());
        for at in (0..self.len).step_by(V::LANES) {
            let mut half = [[V::zero(); 3]; IN];
            for j in 0..3 {
                let mut taps = [V::zero(); 3];
                for (i, tap) in taps.iter_mut().enumerate() {
                    *tap = dtype.load(weight, self.first + (3 * i + j) * self.tap + at);
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
