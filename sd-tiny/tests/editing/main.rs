//! Pictures changed, in whole and in part, beside diffusers and beside references of their own.
#![cfg(feature = "micro")]

mod inpaint;
mod measured;
mod seam;
