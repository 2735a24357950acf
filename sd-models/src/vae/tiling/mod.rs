//! Pictures that do not fit into a device's memory whole.
//!
//! [`Tiling`] says how a picture is cut, a [`Plan`] how large the pieces are and what they need.

mod blend;
mod limits;
mod plan;
mod steps;

pub(super) use blend::Tiles;
pub use limits::{Limits, Tiling, Work};
pub(super) use plan::Planner;
pub use plan::{Plan, StripRows};
