//! CLIP's text encoder (Radford et al. 2021, arXiv:2103.00020).

mod config;
mod encoder;
mod layer;
mod model;
mod pair;
mod reading;
mod supported;

pub use config::{Activation, ClipTextConfig};
pub use encoder::{ClipTextEncoder, ClipTextFiles};
use layer::ClipLayer;
pub use model::{ClipOutput, ClipTextModel};
pub use pair::{ClipPair, ClipPairFiles};
pub use reading::ClipReading;
