//! The networks of Stable Diffusion on Burn, and the files they load from.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod class;
mod clip;
mod config;
pub mod controlnet;
mod error;
mod file_kind;
mod files;
mod inspect;
pub mod ip_adapter;
mod layer_changes;
mod layers;
pub mod ldm;
pub mod lora;
pub mod memory;
mod notes;
mod options;
mod saving;
mod single_file;
pub mod t2i_adapter;
#[doc(hidden)]
pub mod testing;
mod textual_inversion;
mod tokenizer;
pub mod unet;
pub mod vae;
mod weights;

pub use class::ComponentClass;
pub use clip::{
    Activation, ClipConfig, ClipModel, ClipOutput, ClipPair, ClipPairFiles, ClipReading,
    ClipTextConfig, ClipTextEncoder, ClipTextFiles, ClipTextModel, ClipVisionConfig,
    ClipVisionModel, ClipVisionModelWithProjection, ClipVisionOutput, SafetyCheckerConfig,
    SafetyCheckerFiles, SafetyCheckerModel, SafetyScores,
};
pub use config::ConfigFile;
pub use error::{Error, Misshapen, Result, TensorMismatch};
pub use file_kind::FileKind;
pub use files::{EmbeddedFile, Files, RemoteFiles};
pub use inspect::{Inspection, Kind, Naming, PredictionType, inspect};
pub use layer_changes::{BesideLayers, LayerChanges};
pub use options::{LayerPacking, LoadOptions, UnknownSettings};
pub use saving::{TensorFile, Written};
pub use sd_kernels::{Blocks, Int8, OutputReplay, Packing, Products, WeightStorage};
pub use single_file::{SingleComponent, SingleFile, SingleFileOptions};
pub use textual_inversion::TextualInversion;
pub use tokenizer::{ClipTokenizer, Tokens};
pub use weights::{Renamed, TensorInfo, TensorSource, Weights, open_source, parameter_shapes};
