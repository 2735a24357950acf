//! Pictures too large to be held whole several times: computed in strips of rows.
//!
//! A convolution needs one row more than its strip above and below, which the neighbouring strips
//! have. A normalisation needs the mean and deviation of the whole picture; they are collected
//! while the strips are made. So the result is that of the whole picture, and nothing is computed
//! twice. What is saved is every intermediate result inside a layer, which is held for one strip
//! instead of for all.

mod moments;
mod picture;
mod replay;
mod run;

pub(super) use replay::replay;
pub(super) use run::run;

use picture::{Output, Strips, ranges};
