use std::collections::BTreeMap;

use sd_core::WeightBytes;
use serde_json::Map;

use super::config::width;
use super::{
    ClipTextConfig, ClipTextModel, ClipVisionConfig, ClipVisionModelWithProjection, supported,
};
use crate::weights::parameter_shapes;
use crate::{ConfigFile, Files, LoadOptions, Result};

/// The shapes of a whole CLIP's two towers, as in the `config.json` of transformers' `CLIPModel`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ClipConfig {
    /// The tower of text.
    pub text: ClipTextConfig,
    /// The tower of pictures, whose projection is as wide as that of text.
    pub vision: ClipVisionConfig,
}

impl ClipConfig {
    /// Reads the settings of a file. What it does not say is as in transformers' `CLIPConfig`.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) when a setting is out of range,
    /// [`Error::Unsupported`](crate::Error::Unsupported) for one that is not implemented, known or
    /// unknown.
    pub fn from_file(file: &ConfigFile) -> Result<Self> {
        supported::check_whole(file)?;
        let projection = width(file, "projection_dim", 512)?;
        Ok(Self {
            text: ClipTextConfig::of(&part(file, "text_config")?, Some(projection))?,
            vision: vision(file)?,
        })
    }
}

/// The shape of a whole's tower of pictures.
pub(super) fn vision(file: &ConfigFile) -> Result<ClipVisionConfig> {
    let projection = width(file, "projection_dim", 512)?;
    ClipVisionConfig::of(&part(file, "vision_config")?, projection)
}

/// The settings of one tower. Old files have them a second time, without those that are as the
/// class's own, under a name of their own: transformers takes these, and what they do not say is
/// the class's.
fn part(file: &ConfigFile, field: &str) -> Result<ConfigFile> {
    let old = file.within(&format!("{field}_dict"))?;
    let part = match old {
        Some(old) => Some(old),
        None => file.within(field)?,
    };
    Ok(part.unwrap_or_else(|| ConfigFile::new(file.path(), Map::new())))
}

/// A whole CLIP: both towers, with projections into one space.
#[derive(Debug)]
pub struct ClipModel {
    /// The tower of text; its pooled vectors are projected.
    pub text: ClipTextModel,
    /// The tower of pictures; its pooled vectors are projected.
    pub vision: ClipVisionModelWithProjection,
    /// Logarithm of the factor that makes a cosine a logit.
    pub logit_scale: f32,
}

/// The one parameter that belongs to no tower.
const LOGIT_SCALE: &str = "logit_scale";

impl ClipModel {
    /// Opens the folder of transformers' `CLIPModel`; also gives the memory the weights take.
    ///
    /// # Errors
    /// Those of [`ClipConfig::from_file`] and [`Files::weights`];
    /// [`Error::Tensors`](crate::Error::Tensors) when the tensors are not the model's;
    /// [`Error::Packing`](crate::Error::Packing) when there is not memory enough.
    pub fn open(files: &Files, options: &LoadOptions) -> Result<(Self, WeightBytes)> {
        let file = ConfigFile::read(files, "config.json")?;
        let config = ClipConfig::from_file(&file.on_unknown(options.unknown_settings))?;
        let weights = files.weights("model", options.variant.as_deref())?;

        let text = ClipTextModel::new(config.text.clone(), &options.device);
        let vision = ClipVisionModelWithProjection::new(config.vision.clone(), &options.device);
        let (of_text, of_vision) = (parameter_shapes(&text), parameter_shapes(&vision));
        let mut all = of_text.clone();
        all.extend(of_vision.clone());
        all.insert(LOGIT_SCALE.into(), Vec::new());
        weights.check_shapes(&all)?;

        let logit_scale = weights.values(LOGIT_SCALE)?;
        let weights_of =
            |names: &BTreeMap<String, Vec<usize>>| weights.only(|name| names.contains_key(name));
        let (text, of_text) = ClipTextModel::load(config.text, &weights_of(&of_text), options)?;
        let (vision, of_vision) =
            ClipVisionModelWithProjection::load(config.vision, &weights_of(&of_vision), options)?;
        let bytes = of_text + of_vision;
        let model = Self {
            text,
            vision,
            logit_scale: logit_scale.first().copied().unwrap_or_default(),
        };
        Ok((model, bytes))
    }
}
