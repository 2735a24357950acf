use super::layer::LayerConfig;
use super::supported;
use crate::{ConfigFile, Error, Files, Result};

/// The activation between the two layers of each feed-forward network (`hidden_act`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(1.702 x)`: OpenAI's CLIP, Stable Diffusion 1.
    QuickGelu,
    /// The exact GELU, with the error function: OpenCLIP, Stable Diffusion 2.
    Gelu,
}

/// The shape of a CLIP text encoder (Radford et al. 2021, arXiv:2103.00020), as in the
/// `config.json` that transformers writes.
///
/// Stable Diffusion 1 is 12 layers of width 768 with 12 heads, Stable Diffusion 2 is 23 of width
/// 1024 with 16, SDXL's second encoder 32 of width 1280 with 20 and a projection.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ClipTextConfig {
    /// Entries of the token table: 49408.
    pub vocab_size: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// Inner width of the feed-forward networks.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads, a divisor of the width.
    pub num_attention_heads: usize,
    /// Most tokens in a prompt: 77.
    pub max_position_embeddings: usize,
    /// The feed-forward networks' activation.
    pub hidden_act: Activation,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f64,
    /// The token whose vector stands for the whole prompt. In old files it is 2 and means the
    /// largest token of the prompt.
    pub eos_token_id: u32,
    /// Width of the pooled embedding; `None` when the prompt's vector is not projected.
    pub projection: Option<usize>,
}

impl ClipTextConfig {
    /// Reads `config.json` in a text encoder's folder. What it does not say is as in
    /// transformers' `CLIPTextConfig`. Of a whole CLIP's it reads `text_config`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) and [`Error::Json`](crate::Error::Json) when it cannot be
    /// read; [`Error::Config`](crate::Error::Config) when a setting is out of range,
    /// [`Error::Unsupported`](crate::Error::Unsupported) for one that is not implemented, known or
    /// unknown.
    pub fn read(files: &Files) -> Result<Self> {
        Self::from_file(&ConfigFile::read(files, "config.json")?)
    }

    /// As [`read`](Self::read), from a file already read.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) and
    /// [`Error::Unsupported`](crate::Error::Unsupported), likewise.
    pub fn from_file(file: &ConfigFile) -> Result<Self> {
        // The class is that of the whole, all else that of the part.
        let whole = file;
        let part = whole.within("text_config")?;
        let file = part.as_ref().unwrap_or(whole);
        let expected = "a list of class names";
        let architectures: Option<Vec<String>> = whole.get("architectures", expected)?;
        let has_projection = architectures
            .is_some_and(|names| names.iter().any(|n| n == "CLIPTextModelWithProjection"));
        let projection = has_projection.then(|| width(file, "projection_dim", 512));
        Self::of(file, projection.transpose()?)
    }

    /// The settings in `file` alone, with a projection to that width.
    pub(super) fn of(file: &ConfigFile, projection: Option<usize>) -> Result<Self> {
        supported::check_text(file)?;
        let [hidden_size, num_attention_heads] = heads(file, [512, 8])?;
        let expected = "a token's number";
        let eos_token_id = file.get("eos_token_id", expected)?.unwrap_or(49407);
        Ok(Self {
            vocab_size: file.size("vocab_size", Some(49408), 1..=1 << 24)?,
            hidden_size,
            intermediate_size: file.size("intermediate_size", Some(2048), 1..=1 << 18)?,
            num_hidden_layers: file.size("num_hidden_layers", Some(12), 1..=1024)?,
            num_attention_heads,
            max_position_embeddings: width(file, "max_position_embeddings", 77)?,
            hidden_act: activation(file)?,
            layer_norm_eps: file.positive("layer_norm_eps", 1e-5)?,
            eos_token_id,
            projection,
        })
    }

    /// The shape of its layers.
    pub(super) fn layer(&self) -> LayerConfig {
        LayerConfig {
            width: self.hidden_size,
            inner: self.intermediate_size,
            heads: self.num_attention_heads,
            activation: self.hidden_act,
            epsilon: self.layer_norm_eps,
            is_causal: true,
        }
    }
}

/// A width, `default` where the file does not say it.
pub(super) fn width(file: &ConfigFile, field: &str, default: usize) -> Result<usize> {
    file.size(field, Some(default), 1..=1 << 16)
}

/// Width of a token and number of heads, which divides it.
pub(super) fn heads(file: &ConfigFile, [size, heads]: [usize; 2]) -> Result<[usize; 2]> {
    let size = width(file, "hidden_size", size)?;
    let heads = width(file, "num_attention_heads", heads)?;
    if size.is_multiple_of(heads) {
        return Ok([size, heads]);
    }
    let expected = format!("a divisor of hidden_size {size}");
    Err(file.error("num_attention_heads", &expected))
}

pub(super) fn activation(file: &ConfigFile) -> Result<Activation, Error> {
    let expected = "quick_gelu or gelu";
    let name: Option<String> = file.get("hidden_act", expected)?;
    match name.as_deref() {
        None | Some("quick_gelu") => Ok(Activation::QuickGelu),
        Some("gelu") => Ok(Activation::Gelu),
        Some(_) => Err(file.error("hidden_act", expected)),
    }
}
