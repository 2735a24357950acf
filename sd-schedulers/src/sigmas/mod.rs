//! The noise levels of a run: which σ it visits, and at which timestep each is evaluated.

mod beta;
mod gits;
mod schedule;
mod tables;

pub(crate) use schedule::positive;
pub use schedule::{FinalSigma, SigmaSchedule};
pub use tables::AlignedModel;
