use cubecl::prelude::*;

/// The sum of every unit's `value`, for each of them. `shared` has a place for each unit.
#[cube]
pub(crate) fn sum_of_units(shared: &mut Shared<[f32]>, value: f32) -> f32 {
    let unit = UNIT_POS as usize;
    shared[unit] = value;
    sync_cube();
    let mut half = CUBE_DIM as usize / 2usize;
    while half > 0usize {
        if unit < half {
            let other = shared[unit + half];
            shared[unit] += other;
        }
        sync_cube();
        half /= 2usize;
    }
    let sum = shared[0];
    // Who is first through must not write over what another has not read.
    sync_cube();
    sum
}

/// The largest of every unit's `value`, for each of them, as [`sum_of_units`].
#[cube]
pub(crate) fn largest_of_units(shared: &mut Shared<[f32]>, value: f32) -> f32 {
    let unit = UNIT_POS as usize;
    shared[unit] = value;
    sync_cube();
    let mut half = CUBE_DIM as usize / 2usize;
    while half > 0usize {
        if unit < half {
            let (mine, other) = (shared[unit], shared[unit + half]);
            if other > mine {
                shared[unit] = other;
            }
        }
        sync_cube();
        half /= 2usize;
    }
    let largest = shared[0];
    sync_cube();
    largest
}
