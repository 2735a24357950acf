use rayon::prelude::*;

use crate::error::{Result, check_len};

/// Numbers of a task: from some 16 Ki on one is worth sending to another thread.
const TASK: usize = 1 << 14;

/// Copies `x` to `out`, on all threads: one alone does not reach the memory's bandwidth, nor does
/// it keep up where the system must first supply the pages of `out`.
///
/// # Errors
/// Slices of different lengths.
pub fn copy(x: &[f32], out: &mut [f32]) -> Result<()> {
    check_len("the output", out.len(), &[x.len()])?;
    let parts = out.par_chunks_mut(TASK).zip(x.par_chunks(TASK));
    parts.for_each(|(out, x)| out.copy_from_slice(x));
    Ok(())
}
