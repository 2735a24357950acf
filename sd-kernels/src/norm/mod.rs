//! Normalisations, channels-last.

mod group;
mod layer;

pub use group::{GroupNorm, group_norm, group_norm_shifted};
pub use layer::layer_norm;
