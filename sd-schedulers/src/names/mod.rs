//! The names that people and programs know schedulers by.

mod nearest;
mod parse;
mod schedules;
mod solvers;
mod table;

pub use parse::SchedulerName;
pub(crate) use schedules::SCHEDULES;
pub(crate) use solvers::SOLVERS;
pub use table::{names, names_markdown};

/// `names` in one line.
pub(crate) fn list<T: AsRef<str>>(names: &[T]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    names.join(", ")
}
