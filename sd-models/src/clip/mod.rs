//! CLIP's text encoder (Radford et al. 2021, arXiv:2103.00020).

mod config;
mod encoder;
mod layer;
mod model;

pub use config::{Activation, ClipTextConfig};
pub use encoder::ClipTextEncoder;
use layer::ClipLayer;
pub use model::{ClipOutput, ClipTextModel};
