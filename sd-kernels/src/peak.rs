use std::time::Instant;

use crate::simd::{Isa, Kernel, Vector};

/// The most floating-point operations per second that one thread reaches on `isa` right now: the
/// bound that a kernel's rate is to be read against. Takes a few milliseconds.
///
/// No bound for [`Isa::portable`]: there the compiler decides what becomes a register, and it makes
/// less of this loop than of the kernels.
pub fn peak_rate(isa: Isa) -> f64 {
    const ROUNDS: usize = 100_000;
    let mut best = f64::MAX;
    for _ in 0..10 {
        let mut sink = 0.0f32;
        let start = Instant::now();
        isa.run(Multiply {
            rounds: ROUNDS,
            sink: &mut sink,
        });
        best = best.min(start.elapsed().as_secs_f64());
        std::hint::black_box(sink);
    }
    (ROUNDS * CHAINS * isa.lanes() * 2) as f64 / best
}

/// Independent sums: enough to hide the latency of a fused multiply-add.
const CHAINS: usize = 12;

struct Multiply<'a> {
    rounds: usize,
    sink: &'a mut f32,
}

impl Kernel for Multiply<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let factor = V::splat(std::hint::black_box(0.999_9));
        let mut sums = [factor; CHAINS];
        for _ in 0..self.rounds {
            for sum in &mut sums {
                *sum = sum.mul_add(factor, factor);
            }
        }
        *self.sink = sums.iter().fold(0.0, |total, sum| total + sum.sum());
    }
}
