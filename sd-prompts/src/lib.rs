//! Grammars of prompts, each as the program reads it that people know it from.
//!
//! | module | program | what it reads |
//! |---|---|---|
//! | [`a1111`] | A1111's webui 1.10 and what follows it | `(a)`, `[a]`, `(a:1.3)`, `[a:b:0.5]` and turns, `AND`, `BREAK` |
//! | [`comfyui`] | ComfyUI | `(a)`, `(a:1.3)` |
//! | [`compel`] | compel 2 | `a++`, `(a b)1.3`, `.blend()`, `.and()` |
//!
//! The readers are pure and total: any text is read, or refused by a [`SyntaxError`] that says where.
//! They know nothing of tokens and embeddings.

pub mod a1111;
pub mod comfyui;
pub mod compel;

mod error;
mod python;
mod weighted;

pub use error::SyntaxError;
pub use weighted::Weighted;
