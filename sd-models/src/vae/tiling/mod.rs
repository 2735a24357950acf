//! Pictures that do not fit into a device's memory whole.
//!
//! [`Tiling`] says how a picture is cut, a [`DecodePlan`] how large the pieces are and what they
//! need.

mod blend;
mod cost;
mod limits;
mod plan;
mod planner;

pub(super) use blend::Tiles;
pub use limits::{Direction, Limits, Tiling};
pub use plan::{DecodePlan, StripRows};
pub(super) use planner::Planner;
