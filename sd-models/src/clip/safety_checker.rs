use burn::module::{Module, Param};
use burn::tensor::{Device, FloatDType, Tensor};
use sd_core::{Error, WeightBytes};

use super::{ClipVisionConfig, ClipVisionModel, supported, whole};
use crate::layers::{Epilogue, Linear, pack_fields, parameter};
use crate::{ConfigFile, Files, LoadOptions, Result, Weights};

/// Concepts that a picture must not show.
const CONCEPTS: usize = 17;
/// Concepts with which a picture is looked at more strictly.
const SPECIAL: usize = 3;

/// The shape of a safety checker, as in the `config.json` of diffusers'
/// `StableDiffusionSafetyChecker`: a whole CLIP's, of which only the tower of pictures is there.
#[derive(Debug, Clone, PartialEq)]
pub struct SafetyCheckerConfig(ClipVisionConfig);

impl SafetyCheckerConfig {
    /// Reads the settings of a file.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) when a setting is out of range,
    /// [`Error::Unsupported`](crate::Error::Unsupported) for one that is not implemented, known or
    /// unknown.
    pub fn from_file(file: &ConfigFile) -> Result<Self> {
        supported::check_whole(file)?;
        whole::vision(file).map(Self)
    }

    /// The tower of pictures.
    pub fn vision(&self) -> &ClipVisionConfig {
        &self.0
    }
}

/// A safety checker's files, found sound; the weights are still in them.
#[derive(Debug, Clone)]
pub struct SafetyCheckerFiles {
    config: SafetyCheckerConfig,
    weights: Weights,
    options: LoadOptions,
}

impl SafetyCheckerFiles {
    /// Opens a model folder's safety checker, `folder` being the sub-folder's name.
    ///
    /// # Errors
    /// Those of [`SafetyCheckerConfig::from_file`] and [`Files::weights`];
    /// [`Error::Tensors`](crate::Error::Tensors) when the tensors are not the model's.
    pub fn open(files: &Files, folder: &str, options: &LoadOptions) -> Result<Self> {
        let folder = files.folder(folder);
        let file = ConfigFile::read(&folder, "config.json")?;
        let file = file.on_unknown(options.unknown_settings);
        let config = SafetyCheckerConfig::from_file(&file)?;
        let weights = folder.weights("model", options.variant.as_deref())?;
        weights.check(&SafetyCheckerModel::new(config.clone(), &options.device))?;
        Ok(Self {
            config,
            weights,
            options: options.clone(),
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &SafetyCheckerConfig {
        &self.config
    }

    /// The device to load it to.
    pub fn device(&self) -> &Device {
        &self.options.device
    }

    /// The bytes that the weights take once they are loaded, told from the files' headers.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for tensors that are no network's.
    pub fn weight_bytes(&self) -> Result<WeightBytes> {
        let model = SafetyCheckerModel::new(self.config.clone(), &self.options.device);
        self.weights.packed_bytes(model, &self.options)
    }

    /// Reads the weights; also gives the memory they take.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when they cannot be read,
    /// [`Error::Packing`](crate::Error::Packing) when there is not memory enough.
    pub fn load(&self) -> Result<(SafetyCheckerModel, WeightBytes)> {
        let model = SafetyCheckerModel::new(self.config.clone(), &self.options.device);
        self.weights.load_packed(model, &self.options)
    }
}

/// The network of diffusers' `StableDiffusionSafetyChecker`: a tower of pictures, the embeddings of
/// the concepts it looks for, and how near to each is too near.
///
/// The fields are named as in checkpoints, so that their tensors load by name.
#[derive(Module, Debug)]
pub struct SafetyCheckerModel {
    vision_model: ClipVisionModel,
    visual_projection: Linear,
    concept_embeds: Param<Tensor<2>>,
    special_care_embeds: Param<Tensor<2>>,
    /// Thresholds, though the name does not say so.
    concept_embeds_weights: Param<Tensor<1>>,
    special_care_embeds_weights: Param<Tensor<1>>,
}

/// Distances of one picture from being too near to each concept: above 0 it is.
///
/// They are cosines less thresholds in f32, rounded to three decimals, as diffusers has them under
/// numpy 2. The strictness that a special concept adds is part of them.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SafetyScores {
    /// Of the concepts that make it look more strictly.
    pub special: Vec<f32>,
    /// Of the concepts that must not be shown: one above 0 flags the picture.
    pub concepts: Vec<f32>,
}

impl SafetyScores {
    fn new(special: &Concepts, concepts: &Concepts, embedding: &[f32]) -> Self {
        // It is set and not added up, and it acts on the special concepts behind, too.
        let mut strictness = 0.0;
        let mut scores = Self {
            special: Vec::new(),
            concepts: Vec::new(),
        };
        for (cosine, threshold) in special.cosines(embedding) {
            let score = rounded(cosine - threshold + strictness);
            if score > 0.0 {
                strictness = 0.01;
            }
            scores.special.push(score);
        }
        for (cosine, threshold) in concepts.cosines(embedding) {
            scores
                .concepts
                .push(rounded(cosine - threshold + strictness));
        }
        scores
    }

    /// `true` when the picture shows a concept that it must not.
    pub fn is_flagged(&self) -> bool {
        self.concepts.iter().any(|score| *score > 0.0)
    }
}

/// `score` to three decimals, half to even, as numpy rounds.
fn rounded(score: f32) -> f32 {
    (score * 1000.0).round_ties_even() / 1000.0
}

/// Embeddings of concepts, one behind the other, and the cosine from which each is too near.
struct Concepts {
    embeddings: Vec<f32>,
    thresholds: Vec<f32>,
}

impl Concepts {
    fn read(embeddings: &Param<Tensor<2>>, thresholds: &Param<Tensor<1>>) -> sd_core::Result<Self> {
        Ok(Self {
            embeddings: values(embeddings.val())?,
            thresholds: values(thresholds.val())?,
        })
    }

    /// The cosine of each with `embedding`, and its threshold.
    fn cosines(&self, embedding: &[f32]) -> impl Iterator<Item = (f32, f32)> {
        let norm = norm(embedding);
        let concepts = self.embeddings.chunks_exact(embedding.len().max(1));
        concepts
            .zip(&self.thresholds)
            .map(move |(concept, threshold)| {
                let dot: f64 = products(concept, embedding).sum();
                let cosine = dot / (self::norm(concept) * norm);
                (cosine as f32, *threshold)
            })
    }
}

/// Length of a vector; of one that has next to none as torch's `normalize` has it.
fn norm(vector: &[f32]) -> f64 {
    products(vector, vector).sum::<f64>().sqrt().max(1e-12)
}

fn products(a: &[f32], b: &[f32]) -> impl Iterator<Item = f64> {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b))
}

fn values<const D: usize>(tensor: Tensor<D>) -> sd_core::Result<Vec<f32>> {
    let values = tensor.cast(FloatDType::F32).try_into_vec_as::<f32>();
    values.map_err(|e| Error::backend("reading the safety checker's numbers", e))
}

impl SafetyCheckerModel {
    /// A model whose weights are still to be loaded; it takes no memory until then.
    pub fn new(config: SafetyCheckerConfig, device: &Device) -> Self {
        let vision = config.0;
        let [width, out] = [vision.hidden_size, vision.projection_dim];
        Self {
            vision_model: ClipVisionModel::new(vision, device),
            visual_projection: Linear::new(width, out, false, device),
            concept_embeds: parameter([CONCEPTS, out], device),
            special_care_embeds: parameter([SPECIAL, out], device),
            concept_embeds_weights: parameter([CONCEPTS], device),
            special_care_embeds_weights: parameter([SPECIAL], device),
        }
    }

    /// The tower of pictures' shape.
    pub fn vision(&self) -> &ClipVisionConfig {
        self.vision_model.config()
    }

    /// The scores of each of `n` pictures, as pixels `[n, 3, image_size, image_size]` that the
    /// checker's own image processor made.
    ///
    /// # Errors
    /// [`Error::Shape`] when the pixels have another shape, [`Error::NotFinite`] when a picture's
    /// embedding holds NaN or infinite values, which would be near nothing; [`Error::Backend`]
    /// when it cannot be read from its device.
    pub fn forward(&self, pixels: Tensor<4>) -> sd_core::Result<Vec<SafetyScores>> {
        let pooled = self.vision_model.forward(pixels)?.pooled;
        let embeddings = self.visual_projection.forward(pooled, Epilogue::NONE);
        let ([_, width], dtype) = (embeddings.dims(), embeddings.dtype());
        let embeddings = values(embeddings)?;
        if !embeddings.iter().all(|v| v.is_finite()) {
            return Err(Error::NotFinite {
                component: "the safety checker",
                step: None,
                dtype,
            });
        }
        let special = Concepts::read(&self.special_care_embeds, &self.special_care_embeds_weights)?;
        let concepts = Concepts::read(&self.concept_embeds, &self.concept_embeds_weights)?;
        let scores = embeddings.chunks_exact(width);
        let scores = scores.map(|embedding| SafetyScores::new(&special, &concepts, embedding));
        Ok(scores.collect())
    }
}

pack_fields!(SafetyCheckerModel: vision_model, visual_projection);
