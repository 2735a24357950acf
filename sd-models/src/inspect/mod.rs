//! What a file or a folder of weights is, told from names, shapes and number types alone: no value
//! is read.

mod adapters;
pub(crate) mod blocks;
mod folder;
pub(crate) mod parts;
pub(crate) mod prediction;
pub(crate) mod text;
pub(crate) mod unet;
pub(crate) mod vae;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::Located;
use crate::weights::{self, TensorInfo};
use crate::{Error, Files, Result};
use parts::{Part, Parts, Role};

pub(crate) use adapters::lora_family;

/// Kind of what a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// A denoiser with its autoencoder or its text encoders.
    Model,
    /// A U-Net alone.
    Unet,
    /// An autoencoder alone.
    Vae,
    /// One text encoder or several.
    TextEncoder,
    /// A safety checker.
    SafetyChecker,
    /// Changes to a model's weights (LoRA, LoHa, LoKr).
    Lora,
    /// Vectors for words of a prompt.
    TextualInversion,
    /// A network whose residuals steer a U-Net.
    Controlnet,
    /// Changes to a copy of a model's U-Net that steers it (Control-LoRA).
    ControlLora,
    /// A network that makes prompts of pictures (IP-Adapter).
    IpAdapter,
    /// A small network that steers a U-Net by what it finds in a picture (T2I-Adapter).
    T2iAdapter,
    /// A network that enlarges pictures (ESRGAN, SwinIR).
    Upscaler,
    /// A transformer that denoises, alone: Stable Diffusion 3, Flux.
    Transformer,
    /// None of these.
    Unknown,
}

/// Naming of a file's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Naming {
    /// The original code's: single files (CompVis, Stability AI, Black Forest Labs, OpenCLIP).
    Ldm,
    /// Diffusers' and transformers'.
    Diffusers,
    /// The tiny autoencoder's own, numbers of layers.
    Taesd,
    /// Those of kohya-ss' trainer.
    Kohya,
    /// Those of the library peft.
    Peft,
}

/// What a U-Net's output means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise.
    Epsilon,
    /// The velocity.
    VPrediction,
    /// The sample.
    Sample,
}

/// What [`inspect`] found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Inspection {
    /// The kind.
    pub kind: Kind,
    /// The family: `sd1`, `sd2`, `sdxl`, `sdxl_refiner`, `ssd_1b`, `vega`, `koala`, `small_sd`,
    /// `tiny_sd`, `sdxs`, `lcm`, `sd3`, `flux` …; `None` where the tensors do not say.
    pub family: Option<String>,
    /// The naming of the tensors.
    pub layout: Option<Naming>,
    /// What the U-Net's output means; `None` where that is ambiguous, or none of these.
    pub prediction: Option<PredictionType>,
    /// Number of tensors of each number type.
    pub dtypes: BTreeMap<String, usize>,
    /// Number of values that are no whole numbers.
    pub parameters: u64,
    /// Parts that are there, by the names that diffusers' folders have for them; of an IP-Adapter the
    /// one that it is: `plain`, `Plus`, `full-face`.
    pub components: Vec<String>,
    /// What is not there: parts of a model, tensors of a part, a file's end.
    pub missing: Vec<String>,
    /// What the tensors do not tell, and what may be meant.
    pub ambiguous: Vec<String>,
    /// Reason for [`prediction`](Self::prediction).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction_reason: Option<String>,
    /// `true` where the file itself says [`prediction`](Self::prediction), or what lies beside it,
    /// and neither its name nor its family does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prediction_is_marked: bool,
    /// `true` where the file says that its noise schedule ends in pure noise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub zero_terminal_snr: bool,
    /// Channels of the U-Net's input, or of the autoencoder's latent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<usize>,
}

/// Says what the file or folder at `path` is, without reading a value.
///
/// A file that is cut short behind its header is no error: what it lacks is in
/// [`missing`](Inspection::missing).
///
/// # Errors
/// As [`open_source`](crate::open_source) for a file; [`Error::NoWeights`] for a folder without
/// weights.
pub fn inspect(path: impl AsRef<Path>) -> Result<Inspection> {
    let path = path.as_ref();
    match path.is_dir() {
        true => folder::inspect(path),
        false => inspect_file(path),
    }
}

fn inspect_file(path: &Path) -> Result<Inspection> {
    Ok(inspect_opened(
        path,
        &weights::open(Located::Disk(path.into()))?,
    ))
}

/// As [`inspect`], of the file `path` that is open.
pub(crate) fn inspect_opened(path: &Path, opened: &weights::Opened) -> Inspection {
    let stem = path
        .file_stem()
        .map(|stem| stem.to_string_lossy().to_lowercase());
    let folder = Files::directory(path.parent().unwrap_or(Path::new("")));
    let config = path.with_extension("yaml");
    let config = config
        .file_name()
        .map(|name| folder.text(&name.to_string_lossy()));
    let config = config.and_then(Result::ok);
    let beside = prediction::Beside {
        name: stem.unwrap_or_default(),
        config,
        metadata: opened.source.metadata(),
    };
    let mut found = describe(opened.source.tensors(), &beside);
    if let Some(cut) = &opened.cut_short {
        found.missing.push(cut.to_string());
    }
    found
}

impl Inspection {
    fn new(kind: Kind, tensors: &[TensorInfo]) -> Self {
        let mut dtypes = BTreeMap::new();
        for tensor in tensors {
            *dtypes.entry(tensor.stored.to_string()).or_default() += 1;
        }
        let floats = tensors.iter().filter(|tensor| is_float(tensor));
        Self {
            kind,
            family: None,
            layout: None,
            prediction: None,
            dtypes,
            parameters: floats.fold(0, |n, tensor| n.saturating_add(tensor.elements())),
            components: Vec::new(),
            missing: Vec::new(),
            ambiguous: Vec::new(),
            prediction_reason: None,
            prediction_is_marked: false,
            zero_terminal_snr: false,
            channels: None,
        }
    }
}

fn is_float(tensor: &TensorInfo) -> bool {
    let whole = [
        "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL", "C64",
    ];
    !whole.contains(&tensor.stored)
}

/// What a list of tensors is.
fn describe(tensors: &[TensorInfo], beside: &prediction::Beside<'_>) -> Inspection {
    if let Some(found) = adapters::recognise(tensors, beside.metadata) {
        return found;
    }
    let parts = Parts::of(tensors);
    let mut found = Inspection::new(parts.kind(), tensors);
    let facts = parts.denoiser().map(|part| match part.role {
        Role::Unet => unet::describe(part),
        _ => unet::Facts {
            family: transformer_family(part),
            ..unet::Facts::default()
        },
    });
    let text_family = parts.text_family();
    if let Some(facts) = &facts {
        found.family = facts.family.map(String::from);
        found.channels = facts.in_channels;
        found.layout = parts.denoiser().map(|part| part.layout);
        found.missing.extend(facts.missing.iter().cloned());
        if facts.family == Some("sd2") && facts.in_channels == Some(8) {
            let words = "task: a network of 8 channels may edit pictures (pix2pix) or estimate depth (Marigold)";
            found.ambiguous.push(words.into());
        }
        if facts.is_unet {
            prediction::decide(&mut found, facts, beside, parts.marks());
        }
        if facts.family.is_none() {
            let width = facts
                .cross_width
                .map_or(String::new(), |w| format!(" of width {w}"));
            found
                .ambiguous
                .push(format!("family: no known one has this network{width}"));
        }
    }
    found.components = parts.names(found.family.as_deref());
    for part in parts.iter() {
        match part.role {
            Role::Vae => {
                let vae = vae::describe(part, &beside.name);
                found.missing.extend(vae.missing);
                if facts.is_none() {
                    found.layout = Some(part.layout);
                    found.channels = vae.latent_channels;
                    found.family = vae.family;
                    found.ambiguous.extend(vae.ambiguous);
                }
            }
            Role::Text(_) => {
                found
                    .missing
                    .extend(text::missing(part, found.family.as_deref()));
                if facts.is_none() && parts.of_role(Role::Vae).is_none() {
                    found.layout = Some(part.layout);
                }
            }
            _ => {}
        }
    }
    if found.kind == Kind::TextEncoder {
        match text_family {
            Ok(family) => found.family = Some(family.into()),
            Err(words) => found.ambiguous.push(words),
        }
    }
    if found.kind == Kind::Model {
        let missing = parts.missing_components(found.family.as_deref());
        found.missing.splice(0..0, missing);
    }
    if found.kind == Kind::Unknown {
        found
            .ambiguous
            .push("kind: none that is known here has these tensors".into());
    }
    found
}

/// The family of a transformer that denoises.
fn transformer_family(part: &Part<'_>) -> Option<&'static str> {
    let any = |start: &str| part.tensors.keys().any(|name| name.starts_with(start));
    if any("joint_blocks.")
        || part
            .tensors
            .keys()
            .any(|n| n.ends_with("attn.add_k_proj.weight") && !any("single_transformer_blocks."))
    {
        Some("sd3")
    } else if any("double_blocks.") && any("img_in.") || any("single_transformer_blocks.") {
        Some("flux")
    } else {
        None
    }
}

/// A list of tensors as an error would have it, for folders without any.
fn no_weights(path: &Path) -> Error {
    Error::NoWeights {
        folder: path.into(),
        tried: vec!["model_index.json".into(), "config.json and weights".into()],
        variants: Vec::new(),
        others: Vec::new(),
    }
}
