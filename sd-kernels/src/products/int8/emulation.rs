use super::{GROUP, LINE_TERMS, unit};
use crate::gemm::Ahead;
use crate::products::Shifted;
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
        shifted: shifted::<V>,
    }
}

/// Sums of products of so many lines.
#[inline(always)]
unsafe fn sum<V: Vector>(
    lines: usize,
    rows: usize,
    [a, b]: [*const f32; 2],
    ahead: Ahead,
    to: *mut f32,
) {
    shifted::<V>(rows, Shifted::packed(a, rows, lines), b, ahead, to, false);
}

#[inline(always)]
unsafe fn shifted<V: Vector>(
    rows: usize,
    a: Shifted,
    b: *const f32,
    _ahead: Ahead,
    to: *mut f32,
    more: bool,
) {
    let width = 2 * V::LANES;
    let to = to.cast::<i32>();
    for r in 0..rows {
        for column in 0..width {
            let to = to.add(r * width + column);
            let mut sum = if more { *to } else { 0 };
            for i in 0..a.count {
                let mut b = b.add(i * a.panel).cast::<[i8; GROUP]>().add(column);
                let row = a.from.add(r * a.pitch + *a.offsets.add(i));
                for l in 0..a.lines {
                    let line = *row.add(l * a.step).cast::<[i8; LINE_TERMS]>();
                    for x in line.as_chunks::<GROUP>().0 {
                        let products = x.iter().zip(*b).map(|(&x, y)| i32::from(x) * i32::from(y));
                        sum += products.sum::<i32>();
                        b = b.add(width);
                    }
                }
            }
            *to = sum;
        }
    }
}
