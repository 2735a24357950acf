//! CLIP (Radford et al. 2021, arXiv:2103.00020): the tower of text, that of pictures, and both.

mod config;
mod encoder;
mod layer;
mod lines;
mod model;
mod pair;
mod reading;
mod safety_checker;
mod supported;
mod vision;
mod vision_config;
mod whole;

pub use config::{Activation, ClipTextConfig};
pub use encoder::{ClipTextEncoder, ClipTextFiles};
pub use model::{ClipOutput, ClipTextModel};
pub use pair::{ClipPair, ClipPairFiles};
pub use reading::ClipReading;
pub use safety_checker::{
    SafetyCheckerConfig, SafetyCheckerFiles, SafetyCheckerModel, SafetyScores,
};
pub use vision::{ClipVisionModel, ClipVisionModelWithProjection, ClipVisionOutput};
pub use vision_config::ClipVisionConfig;
pub use whole::{ClipConfig, ClipModel};
