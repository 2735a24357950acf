//! The names that people and programs know schedulers by.

mod a1111;
mod comfyui;
mod markdown;
mod nearest;
mod parse;
mod schedules;
mod sd_cpp;
mod solvers;
mod table;

pub use markdown::{names, names_markdown, variants};
pub use parse::SchedulerName;
pub(crate) use schedules::SCHEDULES;
pub(crate) use solvers::SOLVERS;
use table::Frontend;

/// The programs whose names are known, besides diffusers.
pub(crate) static FRONTENDS: [&Frontend; 3] = [&a1111::A1111, &comfyui::COMFYUI, &sd_cpp::SD_CPP];

/// `names` in one line.
pub(crate) fn list<T: AsRef<str>>(names: &[T]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    names.join(", ")
}
