//! The noise levels of a run: which σ it visits, and at which timestep each is evaluated.

mod beta;
mod schedule;

pub use schedule::{FinalSigma, SigmaSchedule};
