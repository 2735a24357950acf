//! Files of a [Hugging Face hub](https://huggingface.co), in the cache that the Python tools share.
//!
//! ```no_run
//! use sd_hub::{Hub, ModelId};
//!
//! # fn main() -> sd_hub::Result<()> {
//! let hub = Hub::from_env()?;
//! let id: ModelId = "stabilityai/sd-turbo".parse()?;
//! let repository = hub.repository(&id)?;
//! let index = repository.fetch("model_index.json")?; // a path in the cache
//! # Ok(())
//! # }
//! ```
//!
//! A file is fetched once, resumed where its download broke, and checked by size and hash before
//! it gets its name. The hub is behind a trait, [`HubClient`]: [`HttpClient`] speaks HTTP, and a
//! program may bring its own.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod cache;
mod client;
mod digest;
mod download;
mod error;
mod http;
mod hub;
mod model_id;
mod names;
mod repository;
mod settings;
mod token;
mod url;

pub use client::{Body, HubClient, Listing, Metadata};
pub use error::{HubError, Result};
pub use http::HttpClient;
pub use hub::{Hub, Progress};
pub use model_id::ModelId;
pub use repository::Repository;
pub use settings::Settings;
pub use token::Token;
