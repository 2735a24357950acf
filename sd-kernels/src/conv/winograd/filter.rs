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
            panel,
            // A panel of the weight is `[9][inputs][width]`.
            inputs: self.inputs,
            first: inputs.0,
            len: (inputs.1 - inputs.0) * self.width,
            to: to.get(),
            position: self.position(inputs.1 - inputs.0),
            scheme: self.scheme,
        });
    }
}

struct Filter<'a, S, const IN: usize, const OUT: usize> {
    weight: &'a PackedMatrix,
    panel: usize,
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

impl<S: Scheme<IN, OUT>, const IN: usize, const OUT: usize> Kernel for Filter<'_, S, IN, OUT> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (weight, held) = (self.weight.as_ptr(), self.weight.held());
        // SAFETY: a panel of the weight, which has it.
        let panel = weight.add(self.panel * self.weight.panel_bytes());
        for at in (0..self.len).step_by(V::LANES) {
            let (input, column) = (self.first + at / (2 * V::LANES), at % (2 * V::LANES));
            let mut half = [[V::zero(); 3]; IN];
            for j in 0..3 {
                let mut taps = [V::zero(); 3];
                for (i, tap) in taps.iter_mut().enumerate() {
                    *tap = held.load(panel, (3 * i + j) * self.inputs + input, column);
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
