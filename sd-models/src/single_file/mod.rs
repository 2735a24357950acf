//! A whole model in one file, as the folder in diffusers' layout that it would be.
//!
//! The networks' configurations follow from the shapes of the tensors; what these do not tell is
//! from marks in the file, from what lies beside it, from its family, or from the caller.

mod assemble;
mod components;
pub(crate) mod families;
pub(crate) mod names;
mod prediction;
mod text;
mod tiny;
pub(crate) mod unet;
mod vae;
mod vocabulary;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::files::Located;
use crate::inspect::parts::{Part, Parts, Role};
use crate::inspect::{Inspection, Kind, PredictionType, inspect_opened};
use crate::weights::{self, TensorSource};
use crate::{Error, Files, Result};
use families::Family;

/// What a caller knows of a single file better than it says itself.
#[derive(Debug, Clone, Default)]
pub struct SingleFileOptions {
    /// Family of the model; `None`: told from its tensors.
    pub family: Option<String>,
    /// Meaning of the U-Net's output; `None`: told from marks, from what lies beside the file, or
    /// from the family.
    pub prediction: Option<PredictionType>,
    /// Files in diffusers' layout whose settings are taken in place of those that are told from the
    /// tensors and the family, and whose tokenizers are.
    pub config: Option<Files>,
}

/// A model in one file, told what it is; the weights are still in it.
#[derive(Debug, Clone)]
pub struct SingleFile {
    path: PathBuf,
    inspection: Inspection,
    family: &'static str,
    files: Files,
    missing: Vec<String>,
}

/// Components of a model that a file may be in place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SingleComponent {
    /// A U-Net.
    Denoiser,
    /// An autoencoder.
    Autoencoder,
    /// Text encoders.
    TextEncoder,
}

/// A file that is open, with what was found in it.
struct Opened {
    source: Arc<dyn TensorSource>,
    inspection: Inspection,
    path: PathBuf,
}

impl Opened {
    fn new(path: &Path) -> Result<Self> {
        let opened = weights::open(Located::Disk(path.into()))?;
        let inspection = inspect_opened(path, &opened);
        Ok(Self {
            source: opened.sound()?,
            inspection,
            path: path.into(),
        })
    }

    /// The error of a file that is not what it was opened as.
    fn error(&self, expected: &str) -> Error {
        Error::Contents {
            path: self.path.clone(),
            found: words(&self.inspection),
            expected: expected.into(),
        }
    }

    /// The file's name without its ending, in small letters.
    fn name(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default();
        stem.to_string_lossy().to_lowercase()
    }
}

impl SingleFile {
    /// Opens a file of any kind that [`open_source`](crate::open_source) does and says what model it
    /// holds. No value is read.
    ///
    /// What is ambiguous and changes the picture is taken as diffusers takes it, with a warning that
    /// says what to pass.
    ///
    /// # Errors
    /// As [`open_source`](crate::open_source) for files that are damaged or of another kind;
    /// [`Error::Contents`] when it holds something else than a model of a family that opens, and
    /// [`Error::Unsupported`] for a family that is not known; [`Error::Tensors`] when it holds
    /// tensors that no component reads.
    pub fn open(path: impl AsRef<Path>, options: &SingleFileOptions) -> Result<Self> {
        let opened = Opened::new(path.as_ref())?;
        if !matches!(opened.inspection.kind, Kind::Model | Kind::Unet) {
            return Err(opened.error("a model, or a U-Net with the other components beside it"));
        }
        assemble::model(opened, options)
    }

    /// Files of the components of one kind in a file, each in a folder of a model's in diffusers'
    /// layout; a single text encoder is in none. `config` is as
    /// [`SingleFileOptions::config`].
    ///
    /// A tiny autoencoder's own files have a half each; the other half is then read from the file
    /// beside it whose name has `encoder` in place of `decoder`, or the other way round, and the log
    /// says so.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::Contents`] when there is no such component in it.
    pub fn component(
        path: impl AsRef<Path>,
        component: SingleComponent,
        config: Option<&Files>,
    ) -> Result<Files> {
        let options = SingleFileOptions {
            config: config.cloned(),
            ..SingleFileOptions::default()
        };
        assemble::component(&Opened::new(path.as_ref())?, component, &options)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was found in it.
    pub fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    /// The family it is taken for.
    pub fn family(&self) -> &'static str {
        self.family
    }

    /// The folder in diffusers' layout that it stands for: `model_index.json`, and each component
    /// with its configuration. The weights are read from the file. Where training left an averaged
    /// copy of the U-Net beside the plain one, it is the variant `ema`.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Folders of components that a model of its family has and the file has not.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Names of the families that open.
    pub fn families() -> Vec<&'static str> {
        Family::names()
    }
}

/// Words on what a file holds.
fn words(found: &Inspection) -> String {
    let kind = match found.kind {
        Kind::Model => "a model",
        Kind::Unet => "a U-Net alone",
        Kind::Vae => "an autoencoder alone",
        Kind::TextEncoder => "a text encoder alone",
        Kind::SafetyChecker => "a safety checker",
        Kind::Lora => "a LoRA, which changes a model's weights and is none",
        Kind::TextualInversion => "a textual inversion, vectors for words of a prompt",
        Kind::IpAdapter => "an IP-Adapter, which makes prompts of pictures and is no model",
        Kind::Controlnet => "a ControlNet, which steers a model and is none",
        Kind::ControlLora => "a Control-LoRA, which steers a model and is none",
        Kind::T2iAdapter => "a T2I-Adapter, which steers a model and is none",
        Kind::Upscaler => "an upscaler of pictures",
        Kind::Transformer => "a transformer alone",
        Kind::Unknown => "tensors of no network that is known here",
    };
    let family = found.family.as_ref();
    family.map_or(kind.into(), |family| format!("{kind} ({family})"))
}

/// The text encoders among a file's parts: the parts that each is in, by its number.
fn text_encoders<'a, 'p>(parts: &'a Parts<'p>) -> Vec<Vec<&'a Part<'p>>> {
    let mut found: Vec<(usize, Vec<&Part<'_>>)> = Vec::new();
    for part in parts.iter() {
        let Role::Text(number) = part.role else {
            continue;
        };
        match found.last_mut() {
            Some((last, parts)) if *last == number => parts.push(part),
            _ => found.push((number, vec![part])),
        }
    }
    found.into_iter().map(|(_, parts)| parts).collect()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(mut object) => {
            object.retain(|_, value| !value.is_null());
            object
        }
        _ => Map::new(),
    }
}
