use burn::tensor::Tensor;
use sd_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Thresholding of a predicted x₀ before it is used. Latent models need none; models of pixels stay
/// in their range by it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thresholding {
    /// None.
    #[default]
    Off,
    /// Clamped to `±` this (diffusers' `clip_sample_range`).
    Range(f64),
    /// Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487): each sample is clamped to
    /// `±s` and divided by `s`, the quantile `ratio` of its absolute values within `1 ..= max`.
    Dynamic {
        /// The quantile, 0 to 1 (0.995).
        ratio: f64,
        /// The largest `s` (1).
        max: f64,
    },
}

impl Thresholding {
    /// An error when a number is not in its range.
    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Off => Ok(()),
            Self::Range(range) if range > 0.0 => Ok(()),
            Self::Range(range) => Err(Error::invalid(
                "clip_sample_range",
                range,
                "expected a number above 0",
            )),
            Self::Dynamic { ratio, .. } if !(0.0..=1.0).contains(&ratio) => Err(Error::invalid(
                "dynamic_thresholding_ratio",
                ratio,
                "expected 0 to 1",
            )),
            Self::Dynamic { max, .. } if max.is_nan() || max <= 0.0 => Err(Error::invalid(
                "sample_max_value",
                max,
                "expected a number above 0",
            )),
            Self::Dynamic { .. } => Ok(()),
        }
    }

    /// True of the one that leaves x₀ alone.
    pub(crate) fn is_off(self) -> bool {
        self == Self::Off
    }

    /// Applies it to `denoised`, `[n, c, h, w]`.
    pub(crate) fn apply(self, denoised: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Off => denoised,
            Self::Range(range) => denoised.clamp(-range, range),
            Self::Dynamic { ratio, max } => {
                let s = quantile(denoised.clone().abs(), ratio);
                // torch's clamp lets the upper bound win where the two contradict each other.
                let s = s.clamp_min(1.0).clamp_max(max);
                denoised.max_pair(-s.clone()).min_pair(s.clone()) / s
            }
        }
    }
}

/// The quantile `q` over all but the first dimension, linear between two values: `[n, 1, 1, 1]`.
fn quantile(x: Tensor<4>, q: f64) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    let sorted = x.reshape([n, c * h * w]).sort(1);
    let rank = q * (c * h * w - 1) as f64;
    let (low, high) = (rank.floor() as usize, rank.ceil() as usize);
    let below = sorted.clone().narrow(1, low, 1);
    let above = sorted.narrow(1, high, 1);
    let value = below.clone() + (above - below) * (rank - rank.floor());
    value.reshape([n, 1, 1, 1])
}
