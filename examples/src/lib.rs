//! The examples are the files next to this package's `Cargo.toml`; start with
//! `text_to_image.rs`.
