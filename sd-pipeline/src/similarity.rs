use std::path::Path;

use burn::tensor::{Device, FloatDType, Tensor};
use image::RgbImage;
use sd_core::{Error as CoreError, WeightBytes};
use sd_models::{ClipModel, ClipTokenizer, Error as ModelError, Files, LoadOptions};

use crate::devices::check_precision;
use crate::safety::check_size;
use crate::synchronized::synchronized;
use crate::{ImageProcessor, Result};

/// A whole CLIP (Radford et al. 2021, arXiv:2103.00020), which measures how well pictures and texts
/// go together.
///
/// ```no_run
/// use sd_pipeline::models::LoadOptions;
/// use sd_pipeline::{Similarity, device, image};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let options = LoadOptions::new(&device("flex")?);
/// let clip = Similarity::open("clip-vit-large-patch14", &options)?;
/// let picture = image::open("lighthouse.png")?.to_rgb8();
/// let cosines = clip.cosines(&[&picture], &["a lighthouse", "a cat"])?;
/// assert!(cosines[0][0] > cosines[0][1]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Similarity {
    model: ClipModel,
    tokenizer: ClipTokenizer,
    processor: ImageProcessor,
    device: Device,
    bytes: WeightBytes,
}

/// Pictures or texts that go through a tower at once: enough to keep it busy, and memory does not
/// grow with their number.
const AT_ONCE: usize = 8;

impl Similarity {
    /// Opens the folder of transformers' `CLIPModel`: configuration and weights, the files of the
    /// tokenizer, and `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model): files are missing, are not what they should be, or the
    /// tensors are not the model's; [`Error::Component`](crate::Error::Component) when the device
    /// does not compute in the precision asked for.
    pub fn open(folder: impl AsRef<Path>, options: &LoadOptions) -> Result<Self> {
        Self::from_files(&Files::directory(folder.as_ref()), options)
    }

    /// As [`open`](Self::open), from files wherever they are: in a folder or in the program.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_files(files: &Files, options: &LoadOptions) -> Result<Self> {
        let device = &options.device;
        synchronized(&[device], "loading CLIP", || {
            check_precision(device, options.dtype)?;
            let tokenizer = ClipTokenizer::open(files)?;
            let processor = ImageProcessor::read(files, options.unknown_settings)?;
            let (model, bytes) = ClipModel::open(files, options)?;
            check_size(files, &processor, model.vision.config().image_size)?;
            let positions = model.text.config().max_position_embeddings;
            let length = tokenizer.max_length();
            if length > positions {
                let file = files.path("config.json");
                let field = "max_position_embeddings";
                let expected = format!("expected at least the tokenizer's length, {length}");
                return Err(ModelError::config(file, field, positions, expected).into());
            }
            Ok(Self {
                model,
                tokenizer,
                processor,
                device: device.clone(),
                bytes,
            })
        })
    }

    /// Memory that the weights take.
    pub fn weights(&self) -> WeightBytes {
        self.bytes
    }

    /// The factor that makes a cosine a logit, 100 in trained models.
    pub fn logit_scale(&self) -> f32 {
        self.model.logit_scale.exp()
    }

    /// The embedding of each picture, `[pictures, width]` in f32, all of length 1.
    ///
    /// # Errors
    /// [`Error::Component`](crate::Error::Component) when there is none, one cannot be prepared, or
    /// an embedding is not finite.
    pub fn pictures(&self, pictures: &[&RgbImage]) -> Result<Tensor<2>> {
        self.embed("pictures", pictures, |pictures| {
            let pixels = pictures.iter();
            let pixels = pixels.map(|picture| self.processor.pixels(picture, &self.device));
            let pixels = Tensor::cat(pixels.collect::<Result<_>>()?, 0);
            Ok(self.model.vision.forward(pixels)?.pooled)
        })
    }

    /// The embedding of each text, `[texts, width]` in f32, all of length 1. A text that is longer
    /// than the model's is cut, which the log says; an empty one is none worse.
    ///
    /// # Errors
    /// [`Error::Component`](crate::Error::Component) when there is none or an embedding is not
    /// finite, [`Error::Model`](crate::Error::Model) when the vocabulary cannot express one.
    pub fn texts<T: AsRef<str>>(&self, texts: &[T]) -> Result<Tensor<2>> {
        self.embed("texts", texts, |texts| {
            let mut ids = Vec::new();
            for text in texts {
                let tokens = self.tokenizer.encode(text.as_ref())?;
                if tokens.truncated.is_some() {
                    let room = self.tokenizer.max_length() - 2;
                    tracing::warn!("a text is longer than {room} tokens, its end is cut");
                }
                ids.push(tokens.ids);
            }
            Ok(self.model.text.forward(&ids)?.pooled)
        })
    }

    /// The cosines of each picture's embedding with each text's, from -1 to 1: a row for each
    /// picture. Times the [scale](Self::logit_scale) they are logits.
    ///
    /// # Errors
    /// Those of [`pictures`](Self::pictures) and [`texts`](Self::texts).
    pub fn cosines<T: AsRef<str>>(
        &self,
        pictures: &[&RgbImage],
        texts: &[T],
    ) -> Result<Vec<Vec<f32>>> {
        let (pictures, texts) = (self.pictures(pictures)?, self.texts(texts)?);
        let columns = texts.dims()[0];
        synchronized(&[&self.device], "comparing embeddings", || {
            let cosines = pictures.matmul(texts.transpose());
            let cosines = cosines.try_into_vec_as::<f32>();
            let cosines = cosines.map_err(|e| CoreError::backend("reading the cosines", e))?;
            Ok(cosines.chunks(columns).map(<[f32]>::to_vec).collect())
        })
    }

    /// The embeddings that `tower` makes of `items`, a few at a time, divided by their lengths.
    fn embed<I>(
        &self,
        what: &'static str,
        items: &[I],
        tower: impl Fn(&[I]) -> Result<Tensor<2>>,
    ) -> Result<Tensor<2>> {
        if items.is_empty() {
            return Err(CoreError::invalid(what, 0, "expected at least one").into());
        }
        synchronized(&[&self.device], "CLIP", || {
            let parts = items.chunks(AT_ONCE).map(|items| {
                let embeddings = tower(items)?;
                let dtype = embeddings.dtype();
                let embeddings = embeddings.cast(FloatDType::F32);
                let lengths = embeddings.clone().powi_scalar(2).sum_dim(1).sqrt();
                let embeddings = embeddings / lengths;
                match crate::finite::is_finite(&embeddings)? {
                    true => Ok(embeddings),
                    false => Err(CoreError::NotFinite {
                        component: "CLIP",
                        step: None,
                        dtype,
                    }
                    .into()),
                }
            });
            Ok(Tensor::cat(parts.collect::<Result<_>>()?, 0))
        })
    }
}
