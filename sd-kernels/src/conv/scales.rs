//! Scales of pictures that are rounded to int8.

use rayon::prelude::*;

use super::geometry::Pixels;
use crate::parallel::chunk;
use crate::products::{largest, scale};
use crate::simd::{Isa, Kernel, Vector};

/// Numbers that one task looks at, at least.
const PART: usize = 1 << 16;

/// The scale of each picture, and what its numbers are multiplied with before they are rounded: those of
/// the whole picture, so that they do not depend on how it is cut among threads.
pub(super) fn scales(isa: Isa, input: Pixels) -> Vec<[f32; 2]> {
    let size = input.picture.height * input.picture.width * input.channels;
    let parts = size.div_ceil(PART).max(1);
    let parts_of = |picture: usize| {
        (0..parts).into_par_iter().map(move |part| {
            let (from, to) = chunk(size, parts, part);
            let mut found = [0.0; 2];
            isa.run(Range {
                // SAFETY: within the input.
                from: unsafe { input.number(picture * size + from) },
                count: to - from,
                found: &mut found,
            });
            found
        })
    };
    (0..input.picture.n)
        .map(|picture| {
            // A NaN that is summed stays one, in whatever order.
            let both = |[a, p]: [f32; 2], [b, q]: [f32; 2]| [a.max(b), p + q];
            let [largest, poison] = parts_of(picture).reduce(|| [0.0; 2], both);
            scale(largest, poison)
        })
        .collect()
}

struct Range<'a> {
    from: *const f32,
    count: usize,
    found: &'a mut [f32; 2],
}

impl Kernel for Range<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        *self.found = largest::<V>(self.from, self.count);
    }
}
