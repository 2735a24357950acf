//! Solvers, spacings and names.

#![allow(dead_code)]
mod sigmas;
mod spacing;
mod table;

pub use sigmas::{FinalSigma, SigmaSchedule};
pub use spacing::Spacing;
