use rayon::prelude::*;

/// `f(0)`, …, `f(count − 1)` in the caller's thread pool, in order on one thread.
pub(crate) fn for_each(count: usize, f: impl Fn(usize) + Sync + Send) {
    if count <= 1 || rayon::current_num_threads() == 1 {
        (0..count).for_each(f);
    } else {
        (0..count).into_par_iter().with_max_len(1).for_each(f);
    }
}

/// The bounds of part `index` when `total` is cut into `parts` of nearly equal size.
#[inline(always)]
pub(crate) fn chunk(total: usize, parts: usize, index: usize) -> (usize, usize) {
    (total * index / parts, total * (index + 1) / parts)
}
