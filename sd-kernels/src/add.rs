use crate::buffer::Shared;
use crate::error::{Result, check_len};
use crate::parallel::{chunk, for_each};
use crate::simd::{Isa, Kernel, Vector};

/// `a += b`, number by number.
///
/// # Errors
/// Slices of different lengths.
pub fn add(isa: Isa, a: &mut [f32], b: &[f32]) -> Result<()> {
    check_len("the summand", b.len(), &[a.len()])?;
    let to = Shared(a.as_mut_ptr());
    let tasks = (b.len() >> 14).max(1);
    for_each(tasks, |task| {
        let (from, end) = chunk(b.len(), tasks, task);
        isa.run(Add {
            // SAFETY: within `a`; each task changes numbers of its own.
            a: unsafe { to.get().add(from) },
            b: &b[from..end],
        });
    });
    Ok(())
}

struct Add<'a> {
    a: *mut f32,
    b: &'a [f32],
}

impl Kernel for Add<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let mut i = 0;
        while i < self.b.len() {
            let count = V::LANES.min(self.b.len() - i);
            let a = V::load_up_to(self.a.add(i), count);
            let b = V::load_up_to(self.b.as_ptr().add(i), count);
            a.add(b).store_up_to(self.a.add(i), count);
            i += V::LANES;
        }
    }
}
