use burn::tensor::{Device, FloatDType, Tensor};
use sd_core::{Autoencoder, AutoencoderSpec, Noise, WeightBytes};
use sd_kernels::OutputReplay;

use super::{AutoencoderTiny, TinyVaeConfig};
use crate::layers::has_kernels;
use crate::vae::scaling::Scaling;
use crate::vae::way::{Cutting, Way, check_image, check_latent};
use crate::vae::{DecodePlan, Direction, Limits, Tiling};
use crate::{ConfigFile, Files, LoadOptions, Result, Weights};

/// Latents are bounded softly to this on both sides before they are decoded.
const BOUND: f64 = 3.0;

/// A tiny autoencoder's files, found sound; the weights are still in them.
#[derive(Debug, Clone)]
pub struct TinyVaeFiles {
    weights: Weights,
    config: TinyVaeConfig,
    spec: AutoencoderSpec,
    options: LoadOptions,
    cutting: Cutting,
}

impl TinyVaeFiles {
    /// Opens `config.json` and `diffusion_pytorch_model.safetensors` of the folder `folder` of
    /// `files`.
    ///
    /// # Errors
    /// As [`TinyVaeConfig::new`] and [`Files::weights`];
    /// [`Error::Tensors`](crate::Error::Tensors) when the tensors are not the network's.
    pub fn open(files: &Files, folder: &str, options: &LoadOptions) -> Result<Self> {
        let file = ConfigFile::read(&files.folder(folder), "config.json")?;
        Self::open_configured(files, folder, file, options)
    }

    /// As [`open`](Self::open) with the configuration `file` in place of `config.json`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_configured(
        files: &Files,
        folder: &str,
        file: ConfigFile,
        options: &LoadOptions,
    ) -> Result<Self> {
        let files = files.folder(folder);
        let config = TinyVaeConfig::new(&file.on_unknown(options.unknown_settings))?;
        let weights = files.weights("diffusion_pytorch_model", options.variant.as_deref())?;
        weights.check(&AutoencoderTiny::new(&config, &options.device))?;
        let spec = AutoencoderSpec {
            latent_channels: config.latent_channels,
            factor: config.factor(),
            device: options.device.clone(),
            dtype: options.dtype,
        };
        Ok(Self {
            weights,
            config,
            spec,
            options: options.clone(),
            cutting: Cutting::default(),
        })
    }

    /// The same with pictures cut as `tiling` says.
    #[must_use]
    pub fn with_tiling(mut self, tiling: Tiling) -> Self {
        self.cutting.tiling = tiling;
        self
    }

    /// The same within `limits` of the device's memory.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.cutting.limits = limits;
        self
    }

    /// The pictures and latents that the autoencoder will work on.
    pub fn spec(&self) -> &AutoencoderSpec {
        &self.spec
    }

    /// The bytes that the weights take once they are loaded, told from the files' headers.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for tensors that are no network's.
    pub fn weight_bytes(&self) -> Result<WeightBytes> {
        let model = AutoencoderTiny::new(&self.config, &self.options.device);
        self.weights.packed_bytes(model, &self.options)
    }

    /// The bytes that encoding or decoding one picture of `size`, height and width in pixels, takes
    /// besides the weights. On the kernels it is replayed: `outputs` are those of what came before.
    ///
    /// # Errors
    /// As [`TinyVae::plan`].
    pub fn work_bytes(
        &self,
        direction: Direction,
        size: [usize; 2],
        outputs: &mut OutputReplay,
    ) -> sd_core::Result<u64> {
        let model = AutoencoderTiny::new(&self.config, &self.options.device);
        let way = Way {
            layers: model.layers(direction),
            direction,
            kernels: has_kernels(&self.options.device, self.options.dtype.into()),
            factor: self.spec.factor,
            dtype: self.options.dtype,
            cutting: self.cutting,
        };
        way.work_bytes(size, outputs)
    }

    /// Reads the weights.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when they cannot be read,
    /// [`Error::Packing`](crate::Error::Packing) when there is not memory enough.
    pub fn load(&self) -> Result<TinyVae> {
        let (model, bytes) = AutoencoderTiny::load(&self.config, &self.weights, &self.options)?;
        let (shift, factor) = (self.config.shift_factor, self.config.scaling_factor);
        Ok(TinyVae {
            model,
            config: self.config.clone(),
            spec: self.spec.clone(),
            scaling: Scaling::Uniform { shift, factor },
            cutting: self.cutting,
            bytes,
        })
    }
}

/// An [`AutoencoderTiny`] with its weights, for a Stable Diffusion model whose autoencoder it was
/// distilled from (TAESD for 1 and 2, TAESDXL for XL): fast and small, and nearly as good.
///
/// It has one latent for a picture and no distribution of them, so that encoding draws no noise.
#[derive(Debug, Clone)]
pub struct TinyVae {
    model: AutoencoderTiny,
    config: TinyVaeConfig,
    spec: AutoencoderSpec,
    scaling: Scaling,
    cutting: Cutting,
    bytes: WeightBytes,
}

impl TinyVae {
    /// [`TinyVaeFiles::open`] and [`TinyVaeFiles::load`] in one, the fastest way, to compute on
    /// `device` in precision `dtype`.
    ///
    /// # Errors
    /// Those of both.
    pub fn open(files: &Files, folder: &str, device: &Device, dtype: FloatDType) -> Result<Self> {
        let options = LoadOptions::new(device).in_precision(dtype);
        TinyVaeFiles::open(files, folder, &options)?.load()
    }

    /// The network's `config.json`.
    pub fn config(&self) -> &TinyVaeConfig {
        &self.config
    }

    /// Memory that its weights take.
    pub fn weights(&self) -> WeightBytes {
        self.bytes
    }

    /// The same with pictures cut as `tiling` says.
    #[must_use]
    pub fn with_tiling(mut self, tiling: Tiling) -> Self {
        self.cutting.tiling = tiling;
        self
    }

    /// The same within `limits` of the device's memory.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.cutting.limits = limits;
        self
    }

    /// The way that one picture of `size`, height and width in pixels, is encoded or decoded, and
    /// the memory that takes. With [`Tiling::Blend`] the plan is that of a tile, plus the picture.
    ///
    /// # Errors
    /// [`Error::Memory`](sd_core::Error::Memory) where it does not fit into the [`Limits`],
    /// [`Error::InvalidArgument`](sd_core::Error::InvalidArgument) for a tile that is no tile.
    pub fn plan(&self, direction: Direction, size: [usize; 2]) -> sd_core::Result<DecodePlan> {
        self.way(direction).plan(size)
    }

    fn way(&self, direction: Direction) -> Way<'_> {
        Way {
            layers: self.model.layers(direction),
            direction,
            kernels: self.model.is_optimized(),
            factor: self.spec.factor,
            dtype: self.spec.dtype,
            cutting: self.cutting,
        }
    }
}

impl Autoencoder for TinyVae {
    fn spec(&self) -> &AutoencoderSpec {
        &self.spec
    }

    fn encode(
        &self,
        image: Tensor<4>,
        _noise: Option<&mut dyn Noise>,
    ) -> sd_core::Result<Tensor<4>> {
        Ok(self.scaling.scale(self.encode_unscaled(image)?))
    }

    fn encode_unscaled(&self, image: Tensor<4>) -> sd_core::Result<Tensor<4>> {
        check_image(&self.spec, self.config.in_channels, &image)?;
        // It was trained on pixels in [0, 1].
        self.way(Direction::Encode).run((image + 1.0) / 2.0)
    }

    fn decode(&self, latent: Tensor<4>) -> sd_core::Result<Tensor<4>> {
        check_latent(&self.spec, &latent)?;
        let latent = self.scaling.unscale(latent);
        let latent = (latent / BOUND).tanh() * BOUND;
        let image = self.way(Direction::Decode).run(latent)?;
        Ok(image * 2.0 - 1.0)
    }
}
