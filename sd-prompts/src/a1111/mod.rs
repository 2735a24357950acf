//! Prompts as A1111's webui reads them (`modules/prompt_parser.py` of its version 1.10), oddities
//! included.
//!
//! A prompt goes through four readings, each of which leaves the others' signs in the text:
//! [`without_comments`], [`parts`] (`AND`), [`schedule`] (`[a:b:0.5]`, `[a|b]`) for each part, and
//! [`weights`] (`(a:1.3)`, `BREAK`) for each scheduled text.

mod comments;
mod parts;
mod schedule;
mod tree;
mod weights;

pub use comments::without_comments;
pub use parts::parts;
pub use schedule::{Timed, schedule};
pub use weights::{is_break, weights};
