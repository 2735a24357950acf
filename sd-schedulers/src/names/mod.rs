//! The names that people and programs know schedulers by.

mod nearest;
mod parse;
mod table;

pub use parse::SchedulerName;
pub use table::names;

/// `names` in one line.
pub(crate) fn list<T: AsRef<str>>(names: &[T]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    names.join(", ")
}
