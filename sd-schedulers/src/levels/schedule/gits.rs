//! The schedules that geometry-inspired time scheduling found for Stable Diffusion.

use crate::levels::{SigmaTable, linspace};

/// Chen et al. 2024 (arXiv:2405.11326), with the coefficient 1.2 that ComfyUI and
/// stable-diffusion.cpp take: for 2 to 20 steps the timesteps that dynamic programming chose, in
/// hundredths of the last one. A run ends at σ = 0 after the last.
#[rustfmt::skip]
const HUNDREDTHS: [&[u8]; 19] = [
    &[100, 29],
    &[100, 49, 18],
    &[100, 61, 33, 11],
    &[100, 66, 42, 21, 6],
    &[100, 83, 57, 34, 15, 3],
    &[100, 83, 62, 42, 23, 8, 1],
    &[100, 83, 62, 45, 29, 15, 6, 1],
    &[100, 83, 66, 50, 34, 21, 11, 4, 1],
    &[100, 83, 66, 51, 38, 27, 17, 9, 4, 1],
    &[100, 83, 67, 54, 42, 30, 21, 13, 7, 3, 1],
    &[100, 83, 68, 56, 45, 34, 25, 17, 11, 6, 3, 1],
    &[100, 86, 71, 61, 49, 38, 29, 21, 15, 10, 6, 3, 1],
    &[100, 86, 71, 62, 50, 40, 31, 23, 17, 12, 8, 5, 3, 1],
    &[100, 88, 78, 68, 58, 48, 38, 30, 23, 17, 12, 8, 5, 3, 1],
    &[100, 88, 78, 68, 58, 48, 38, 30, 23, 17, 13, 9, 6, 4, 2, 1],
    &[100, 88, 78, 68, 58, 48, 38, 30, 23, 17, 13, 10, 7, 5, 3, 2, 1],
    &[100, 88, 78, 68, 59, 50, 41, 33, 26, 20, 15, 11, 8, 6, 4, 3, 2, 1],
    &[100, 88, 78, 68, 59, 50, 42, 34, 27, 21, 16, 12, 9, 7, 5, 4, 3, 2, 1],
    &[100, 88, 78, 68, 59, 50, 42, 34, 27, 21, 17, 13, 10, 8, 6, 5, 4, 3, 2, 1],
];

/// More steps than 20 are interpolated in ln σ from the row of 20, whose end is the smallest σ.
pub(super) fn gits(table: &SigmaTable, steps: usize) -> Vec<f64> {
    let hundredth = (table.len() - 1) as f64 / 100.0;
    let sigma = |k: &u8| table.log_alpha_sigma(f64::from(*k) * hundredth);
    match steps {
        0 | 1 => vec![table.max()],
        2..=20 => HUNDREDTHS[steps - 2].iter().map(sigma).collect(),
        _ => {
            let row = HUNDREDTHS[18].iter().map(sigma).chain([table.min()]);
            let logs: Vec<f64> = row.map(f64::ln).collect();
            let last = logs.len() - 1;
            let point = |place: &f64| {
                let low = (*place as usize).min(last - 1);
                let share = place - low as f64;
                (logs[low] * (1.0 - share) + logs[low + 1] * share).exp()
            };
            let places = linspace(0.0, last as f64, steps + 1);
            places[..steps].iter().map(point).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::gits;
    use crate::levels::SigmaTable;

    #[test]
    fn the_levels_are_those_published() {
        let table = SigmaTable::new(&sd_core::NoiseSchedule::stable_diffusion());
        let published = [
            14.614_641_19,
            7.490_016_46,
            4.654_727_94,
            3.072_779_66,
            2.199_885_37,
            1.615_581_51,
            1.241_532_44,
            0.953_509_21,
            0.748_070_48,
            0.595_163_23,
            0.501_183_81,
            0.410_874_46,
            0.343_706_04,
            0.298_078_33,
            0.250_533_67,
            0.225_453_85,
            0.198_949_16,
            0.170_260_83,
            0.137_921_17,
            0.098_245_32,
        ];
        let found = gits(&table, 20);
        assert_eq!(found.len(), 20);
        for (found, published) in found.iter().zip(published) {
            assert!(
                (found / published - 1.0).abs() < 5e-6,
                "{found} {published}"
            );
        }
    }
}
