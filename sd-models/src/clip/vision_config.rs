use super::config::{activation, heads, width};
use super::layer::LayerConfig;
use super::{Activation, supported};
use crate::{ConfigFile, Files, Result};

/// The shape of CLIP's tower of pictures, a vision transformer (Dosovitskiy et al. 2020,
/// arXiv:2010.11929), as in the `config.json` that transformers writes.
///
/// ViT-B/32 is 12 layers of width 768 with 12 heads and patches of 32 pixels; ViT-L/14, which the
/// safety checker has, 24 of width 1024 with 16; OpenCLIP's H/14 32 of 1280 with 16, bigG/14 48 of
/// 1664 with 16.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ClipVisionConfig {
    /// Width of a token.
    pub hidden_size: usize,
    /// Inner width of the feed-forward networks.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads, a divisor of the width.
    pub num_attention_heads: usize,
    /// Height and width of a picture, in pixels.
    pub image_size: usize,
    /// Height and width of a patch, in pixels; what is left at the right and below is not seen.
    pub patch_size: usize,
    /// The feed-forward networks' activation.
    pub hidden_act: Activation,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f64,
    /// Width of the projected embedding, where there is a projection.
    pub projection_dim: usize,
}

impl ClipVisionConfig {
    /// Reads `config.json` in an image encoder's folder. What it does not say is as in
    /// transformers' `CLIPVisionConfig`. Of a whole CLIP's it reads `vision_config`.
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
        let part = file.within("vision_config")?;
        let file = part.as_ref().unwrap_or(file);
        Self::of(file, width(file, "projection_dim", 512)?)
    }

    /// The settings in `file`, with a projection to that width.
    pub(super) fn of(file: &ConfigFile, projection_dim: usize) -> Result<Self> {
        supported::check_vision(file)?;
        let [hidden_size, num_attention_heads] = heads(file, [768, 12])?;
        let image_size = file.size("image_size", Some(224), 1..=4096)?;
        Ok(Self {
            hidden_size,
            intermediate_size: file.size("intermediate_size", Some(3072), 1..=1 << 18)?,
            num_hidden_layers: file.size("num_hidden_layers", Some(12), 1..=1024)?,
            num_attention_heads,
            image_size,
            patch_size: file.size("patch_size", Some(32), 1..=image_size)?,
            hidden_act: activation(file)?,
            layer_norm_eps: file.positive("layer_norm_eps", 1e-5)?,
            projection_dim,
        })
    }

    /// Number of patches that a picture is cut into.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// The shape of its layers.
    pub(super) fn layer(&self) -> LayerConfig {
        LayerConfig {
            width: self.hidden_size,
            inner: self.intermediate_size,
            heads: self.num_attention_heads,
            activation: self.hidden_act,
            epsilon: self.layer_norm_eps,
            is_causal: false,
        }
    }
}
