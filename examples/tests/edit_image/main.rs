//! The command line of the example that changes pictures is a contract: what it reads, writes and
//! refuses.

mod bad_input;
mod parts;
#[path = "../support/mod.rs"]
mod support;
mod whole;
