use crate::buffer::Shared;
use crate::error::{Result, check_len};
use crate::gemm::Activation;
use crate::parallel::{chunk, for_each};
use crate::simd::{Isa, Kernel, Vector};

/// `out = activation(x)`, number by number.
///
/// # Errors
/// Slices of different lengths.
pub fn activate(isa: Isa, activation: Activation, x: &[f32], out: &mut [f32]) -> Result<()> {
    check_len("the output", out.len(), &[x.len()])?;
    let to = Shared(out.as_mut_ptr());
    let tasks = (x.len() >> 14).clamp(1, 4 * rayon::current_num_threads());
    for_each(tasks, |task| {
        let (from, end) = chunk(x.len(), tasks, task);
        isa.run(Each {
            x: &x[from..end],
            activation,
            // SAFETY: within `out`; each task writes numbers of its own.
            out: unsafe { to.get().add(from) },
        });
    });
    Ok(())
}

struct Each<'a> {
    x: &'a [f32],
    activation: Activation,
    out: *mut f32,
}

impl Kernel for Each<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let mut i = 0;
        while i < self.x.len() {
            let count = V::LANES.min(self.x.len() - i);
            let x = V::load_up_to(self.x.as_ptr().add(i), count);
            self.activation.apply(x).store_up_to(self.out.add(i), count);
            i += V::LANES;
        }
    }
}
