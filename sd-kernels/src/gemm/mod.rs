//! Products with a matrix packed once: the core of linear layers, convolutions and Winograd.

mod block;
mod finish;
mod int8;
mod matrix;
mod place;
mod quantize;
mod source;
mod tile;

pub use finish::Activation;
pub use matrix::PackedMatrix;

pub(crate) use block::{BLOCK, Tiles, product, product_whole};
pub(crate) use finish::{Gate, Store};
pub(crate) use int8::is_tolerated;
pub(crate) use matrix::Order;
pub(crate) use source::{Rows, Source, copy_line};
pub(crate) use tile::{Ahead, Finish, tile};
