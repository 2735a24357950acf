//! What a program can do to a pipeline from outside, with public items alone. One file each; see
//! `README.md`.

pub mod control;
pub mod flow;
pub mod guidance;
pub mod nine_channels;
pub mod single_file;
pub mod soft_mask;

#[cfg(test)]
mod testing;
