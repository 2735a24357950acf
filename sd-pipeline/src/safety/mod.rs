//! What looks at a run's pictures before they leave, and what becomes of those that it flags.

mod checker;
mod concepts;
mod gate;

pub use checker::{Concept, OnFlagged, SafetyChecker, Verdict};
pub use concepts::ConceptChecker;
pub(crate) use concepts::{ConceptCheckerFiles, check_size};
pub(crate) use gate::Gate;
