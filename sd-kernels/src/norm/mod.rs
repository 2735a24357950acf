//! Normalisations, channels-last.

mod apply;
mod group;
mod layer;
mod moments;
mod segments;

pub(crate) use apply::Factors;
pub use group::{GroupNorm, group_norm, group_norm_in_place, group_norm_shifted, group_norm_with};
pub use layer::layer_norm;
pub use moments::Moments;
pub(crate) use segments::Segments;
