//! IP-Adapters as components of a pipeline.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use burn::tensor::{Device, Tensor};
use image::RgbImage;
use sd_core::{Error as CoreError, WeightBytes};
use sd_models::ip_adapter::{IpAdapterFiles, IpAdapterModel};
use sd_models::lora::AdapterReport;
use sd_models::unet::KeyValue;
use sd_models::{ClipVisionModelWithProjection, Error as ModelError, LoadOptions, OutputReplay};

use crate::devices::{check_precision, compiles_kernels};
use crate::synchronized::synchronized;
use crate::work::{Footprint, Work};
use crate::{Component, ImageProcessor, Pipeline, Residency, Result, Slot, Source};

/// An IP-Adapter (Ye et al. 2023, arXiv:2308.06721) with its image encoder: it makes prompts of
/// pictures, which a [`Request`](crate::Request) has as [`ImagePrompt`](crate::ImagePrompt)s.
///
/// ```no_run
/// use sd_pipeline::models::LoadOptions;
/// use sd_pipeline::{ImagePrompt, IpAdapter, Request, read_picture};
/// # fn draw(pipeline: &sd_pipeline::Pipeline) -> sd_pipeline::Result<()> {
///
/// let options = LoadOptions::new(&pipeline.denoiser.spec().device);
/// let adapter = IpAdapter::open("ip-adapter-plus_sd15", &options)?;
/// let pipeline = pipeline.with_image_prompt(adapter)?;
/// let request = Request {
///     image_prompts: vec![ImagePrompt::new(read_picture("statue.png")?).scale(0.6)],
///     ..Request::for_pipeline(&pipeline, "in a garden")
/// };
/// pipeline.generate(&request)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct IpAdapter {
    files: IpAdapterFiles,
    model: IpAdapterModel,
    encoder: ClipVisionModelWithProjection,
    processor: ImageProcessor,
    options: LoadOptions,
    bytes: WeightBytes,
    /// Tokens that stand for no picture, from when they are first asked for.
    absent: OnceLock<Tensor<3>>,
}

impl IpAdapter {
    /// Opens the adapter at `path`: a folder of one file of tensors, safetensors or a PyTorch
    /// checkpoint in the original layout, and `image_encoder`; or such a file beside that folder. It
    /// computes as `options` say, on the denoiser's device best.
    ///
    /// The encoder's pictures are prepared as `image_encoder/preprocessor_config.json` says, and
    /// without one as CLIP's, of the encoder's size.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model): files are missing or are not what they should be, the
    /// adapter takes a face network's vectors (FaceID) or those of another encoder;
    /// [`Error::Component`](crate::Error::Component) when the device does not compute in the
    /// precision asked for.
    pub fn open(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Self> {
        IpAdapterSource::open(path.as_ref(), options)?.read()
    }

    /// As [`open`](Self::open), in a slot: with another residency than always it is read when a run
    /// first needs it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn slot(
        path: impl AsRef<Path>,
        options: &LoadOptions,
        residency: Residency,
    ) -> Result<Slot<Self>> {
        Slot::on_demand(IpAdapterSource::open(path.as_ref(), options)?, residency)
    }

    /// What its files say of it.
    pub fn files(&self) -> &IpAdapterFiles {
        &self.files
    }

    /// Tokens of each of `pictures`, `[pictures, tokens, width]`, as wide as a prompt's. Of a picture
    /// the encoder sees the square in its middle.
    ///
    /// # Errors
    /// [`Error::Component`](crate::Error::Component) when there is no picture or one cannot be
    /// prepared, and for tokens that are not finite.
    pub fn tokens(&self, pictures: &[RgbImage]) -> Result<Tensor<3>> {
        if pictures.is_empty() {
            return Err(CoreError::invalid("pictures", 0, "expected at least one").into());
        }
        let device = &self.options.device;
        synchronized(&[device], "the image encoder", || {
            // One after the other, as memory must not grow with their number.
            let all = pictures.iter().map(|picture| {
                let pixels = self.processor.pixels(picture, device)?;
                Ok(self.model.tokens(self.encoder.forward(pixels)?)?)
            });
            self.finite(Tensor::cat(all.collect::<Result<_>>()?, 0))
        })
    }

    /// Tokens that stand for no picture, `[1, tokens, width]`: those that the negative prompt has
    /// beside it.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens).
    pub fn absent_tokens(&self) -> Result<Tensor<3>> {
        if let Some(tokens) = self.absent.get() {
            return Ok(tokens.clone());
        }
        let LoadOptions { device, dtype, .. } = &self.options;
        let tokens = synchronized(&[device], "the image encoder", || {
            let tokens = self.model.absent_tokens(&self.encoder, device, *dtype);
            self.finite(tokens?)
        })?;
        Ok(self.absent.get_or_init(|| tokens).clone())
    }

    /// Keys and values of all of `tokens` `[pictures, tokens, width]` together, for each layer of
    /// cross-attention.
    pub(crate) fn key_values(&self, tokens: Tensor<3>) -> Result<Vec<KeyValue>> {
        let [pictures, count, width] = tokens.dims();
        let tokens = tokens.reshape([1, pictures * count, width]);
        synchronized(&[&self.options.device], "the image prompt's keys", || {
            Ok(self.model.key_values(&tokens))
        })
    }

    fn finite(&self, tokens: Tensor<3>) -> Result<Tensor<3>> {
        match crate::finite::is_finite(&tokens)? {
            true => Ok(tokens),
            false => Err(CoreError::NotFinite {
                component: "the image encoder",
                step: None,
                dtype: tokens.dtype(),
            }
            .into()),
        }
    }
}

impl Component for IpAdapter {
    type Spec = IpAdapterFiles;

    fn facts(&self) -> &IpAdapterFiles {
        &self.files
    }
}

impl From<IpAdapter> for Slot<IpAdapter> {
    fn from(adapter: IpAdapter) -> Self {
        let bytes = adapter.bytes;
        Self::with_weights(Arc::new(adapter), bytes)
    }
}

/// An adapter's files, found sound, and the way of pictures to its encoder.
struct IpAdapterSource {
    files: IpAdapterFiles,
    processor: ImageProcessor,
    options: LoadOptions,
}

impl IpAdapterSource {
    fn open(path: &Path, options: &LoadOptions) -> Result<Self> {
        check_precision(&options.device, options.dtype)?;
        let files = IpAdapterFiles::open(path, options)?;
        let side = files.vision().image_size;
        let encoder = files.encoder_folder();
        let name = "preprocessor_config.json";
        let processor = match encoder.has(name) {
            true => {
                let processor = ImageProcessor::read(encoder, options.unknown_settings)?;
                crate::safety::check_size(encoder, &processor, side)?;
                processor
            }
            false => ImageProcessor::of_clip(side as u32),
        };
        Ok(Self {
            files,
            processor,
            options: options.clone(),
        })
    }

    fn read(&self) -> Result<IpAdapter> {
        let (model, encoder, bytes) = self.files.load()?;
        Ok(IpAdapter {
            files: self.files.clone(),
            model,
            encoder,
            processor: self.processor.clone(),
            options: self.options.clone(),
            bytes,
            absent: OnceLock::new(),
        })
    }
}

impl Source<IpAdapter> for IpAdapterSource {
    fn spec(&self) -> &IpAdapterFiles {
        &self.files
    }

    fn load(&self) -> Result<(Arc<IpAdapter>, WeightBytes)> {
        let adapter = self.read()?;
        let bytes = adapter.bytes;
        Ok((Arc::new(adapter), bytes))
    }

    fn footprint(&self) -> Option<&dyn Footprint> {
        Some(self)
    }

    fn uses_threads(&self) -> bool {
        !compiles_kernels(&self.options.device)
    }
}

impl Footprint for IpAdapterSource {
    fn device(&self) -> &Device {
        &self.options.device
    }

    fn weight_bytes(&self) -> Option<WeightBytes> {
        self.files.weight_bytes().ok()
    }

    fn work_bytes(&self, _: Work, _: &mut OutputReplay) -> Option<u64> {
        None
    }
}

impl Pipeline {
    /// The same pipeline with one IP-Adapter more, whose number in
    /// [`image_adapters`](Self::image_adapters) an [`ImagePrompt`](crate::ImagePrompt) says. This one
    /// stays as it is and shares all else; without an image prompt in the request a run takes as
    /// long as before, and draws the same.
    ///
    /// # Errors
    /// [`sd_models::Error::Adapter`] that names both families for an adapter of another model's.
    pub fn with_image_prompt(&self, adapter: impl Into<Slot<IpAdapter>>) -> Result<Self> {
        let adapter = adapter.into();
        self.check_image_adapter(adapter.spec())?;
        let mut changed = self.clone();
        changed.image_adapters.push(adapter);
        Ok(changed)
    }

    pub(crate) fn check_image_adapter(&self, files: &IpAdapterFiles) -> Result<(), ModelError> {
        let spec = self.denoiser.spec();
        files.check_layers(spec.context_width, &spec.cross_attention)
    }

    /// Report on an IP-Adapter: whether it is one for this pipeline's model. Nothing is changed, and
    /// no weights are read.
    pub fn match_image_adapter(&self, files: &IpAdapterFiles) -> AdapterReport {
        let mut report = AdapterReport {
            kind: "ip_adapter",
            family: files.config().family().map(Into::into),
            ..AdapterReport::default()
        };
        match self.check_image_adapter(files) {
            // Each layer's keys and values, and what makes the tokens.
            Ok(()) => report.matched = files.config().layers.len() + 1,
            Err(error) => report.misshapen.push(error.to_string()),
        }
        report
    }
}
