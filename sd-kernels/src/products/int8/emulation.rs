use super::{GROUP, LINE_TERMS, unit};
use crate::gemm::Ahead;
use crate::simd::Vector;

/// Rows of a tile.
pub(super) const ROWS: usize = 4;

/// Whole numbers in plain Rust.
#[derive(Clone, Copy)]
pub(in crate::products) struct Emulated;

unit! {
    impl [V: Vector] Unit<V> for Emulated {
        const ROWS: usize = ROWS;
        flipped: 0,
        sum: sum::<V>,
    }
}

#[inline(always)]
unsafe fn sum<V: Vector>(
    lines: usize,
    rows: usize,
    [a, b]: [*const f32; 2],
    _ahead: Ahead,
    to: *mut f32,
) {
    let width = 2 * V::LANES;
    let (a, b, to) = (
        a.cast::<[i8; LINE_TERMS]>(),
        b.cast::<[i8; GROUP]>(),
        to.cast::<i32>(),
    );
    for r in 0..rows {
        for column in 0..width {
            let mut sum = 0;
            for l in 0..lines {
                let row = (*a.add(l * rows + r)).as_chunks::<GROUP>().0.iter();
                for (i, x) in row.enumerate() {
                    let y = *b.add((l * LINE_TERMS / GROUP + i) * width + column);
                    let products = x.iter().zip(y).map(|(&x, y)| i32::from(x) * i32::from(y));
                    sum += products.sum::<i32>();
                }
            }
            *to.add(r * width + column) = sum;
        }
    }
}
