use burn::tensor::{DType, Device, FloatDType, Tensor};
use sd_core::{Autoencoder, AutoencoderSpec, Noise, WeightBytes};
use sd_kernels::OutputReplay;

use super::scaling::Scaling;
use super::way::{Cutting, Way, check_image, check_latent};
use super::{AutoencoderKL, DecodePlan, Direction, Limits, Posterior, Tiling, VaeConfig};
use crate::layers::has_kernels;
use crate::{ConfigFile, Error, Files, LoadOptions, Result, Weights};

/// An autoencoder's files, found sound; the weights are still in them.
#[derive(Debug, Clone)]
pub struct VaeFiles {
    weights: Weights,
    config: VaeConfig,
    /// `true` when the configuration says a scaling factor.
    says_scaling: bool,
    spec: AutoencoderSpec,
    options: LoadOptions,
    cutting: Cutting,
}

impl VaeFiles {
    /// Opens `config.json` and `diffusion_pytorch_model.safetensors` of the folder `folder` of
    /// `files`. It will compute in the precision asked for, or in f32 where the configuration says
    /// that less overflows (`force_upcast`): [`AutoencoderSpec::dtype`] is what it comes to.
    ///
    /// # Errors
    /// As [`VaeConfig::new`] and [`Files::weights`]; [`Error::Tensors`](crate::Error::Tensors) when
    /// the tensors are not the network's.
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
        let file = file.on_unknown(options.unknown_settings);
        let config = VaeConfig::new(&file)?;
        let is_half = matches!(options.dtype, FloatDType::F16 | FloatDType::BF16);
        let mut options = options.clone();
        if is_half && config.force_upcast {
            options.dtype = FloatDType::F32;
        }
        let weights = files.weights("diffusion_pytorch_model", options.variant.as_deref())?;
        weights.check(&AutoencoderKL::new(&config, &options.device))?;
        let spec = AutoencoderSpec {
            latent_channels: config.latent_channels,
            factor: config.factor(),
            device: options.device.clone(),
            dtype: options.dtype,
        };
        Ok(Self {
            weights,
            config,
            says_scaling: file.has("scaling_factor"),
            spec,
            options,
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

    /// The same with latents scaled by `factor` where `config.json` does not say by what, as the
    /// oldest files and those of bare weights do not. It is that of the model that the autoencoder
    /// is used with; without it 0.18215, Stable Diffusion 1's.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) unless `factor` is a finite number above 0.
    pub fn with_default_scaling(mut self, factor: f64) -> Result<Self> {
        let (field, expected) = ("scaling_factor", "expected a number above 0");
        if !(factor.is_finite() && factor > 0.0) {
            return Err(Error::config(self.weights.path(), field, factor, expected));
        }
        if !self.says_scaling {
            self.config.scaling_factor = factor;
        }
        Ok(self)
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
        let model = AutoencoderKL::new(&self.config, &self.options.device);
        self.weights.packed_bytes(model, &self.options)
    }

    /// The bytes that encoding or decoding one picture of `size`, height and width in pixels, takes
    /// besides the weights. On the kernels it is replayed: `outputs` are those of what came before.
    ///
    /// # Errors
    /// As [`Vae::plan`].
    pub fn work_bytes(
        &self,
        direction: Direction,
        size: [usize; 2],
        outputs: &mut OutputReplay,
    ) -> sd_core::Result<u64> {
        let model = AutoencoderKL::new(&self.config, &self.options.device);
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
    pub fn load(&self) -> Result<Vae> {
        let (model, bytes) = AutoencoderKL::load(&self.config, &self.weights, &self.options)?;
        Ok(Vae {
            model,
            scaling: scaling(&self.config),
            config: self.config.clone(),
            spec: self.spec.clone(),
            bytes,
            cutting: self.cutting,
        })
    }
}

fn scaling(config: &VaeConfig) -> Scaling {
    let (shift, factor) = (config.shift_factor, config.scaling_factor);
    match &config.latents {
        None => Scaling::Uniform { shift, factor },
        Some(latents) => Scaling::PerChannel {
            mean: latents.mean.clone(),
            factor: latents.std.iter().map(|std| factor / std).collect(),
        },
    }
}

/// An [`AutoencoderKL`] with its weights: the [`Autoencoder`] of every Stable Diffusion model.
#[derive(Debug, Clone)]
pub struct Vae {
    model: AutoencoderKL,
    config: VaeConfig,
    scaling: Scaling,
    spec: AutoencoderSpec,
    cutting: Cutting,
    bytes: WeightBytes,
}

impl Vae {
    /// [`VaeFiles::open`] and [`VaeFiles::load`] in one, the fastest way, to compute on `device` in
    /// precision `dtype`.
    ///
    /// # Errors
    /// Those of both.
    pub fn open(files: &Files, folder: &str, device: &Device, dtype: FloatDType) -> Result<Self> {
        let options = LoadOptions::new(device).in_precision(dtype);
        VaeFiles::open(files, folder, &options)?.load()
    }

    /// The network's `config.json`.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// The bare network.
    pub fn model(&self) -> &AutoencoderKL {
        &self.model
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

    /// What latents the pixels `image` may be.
    fn posterior(&self, image: Tensor<4>) -> sd_core::Result<Posterior> {
        check_image(&self.spec, self.config.in_channels, &image)?;
        Ok(Posterior::new(self.way(Direction::Encode).run(image)?))
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

impl Autoencoder for Vae {
    fn spec(&self) -> &AutoencoderSpec {
        &self.spec
    }

    fn encode(
        &self,
        image: Tensor<4>,
        noise: Option<&mut dyn Noise>,
    ) -> sd_core::Result<Tensor<4>> {
        let posterior = self.posterior(image)?;
        let latent = match noise {
            None => posterior.mean,
            Some(noise) => {
                let noise = noise.normal(posterior.mean.dims())?;
                let (device, dtype) = (&self.spec.device, DType::from(self.spec.dtype));
                posterior.sample(Tensor::from_data(noise, (device, dtype)))
            }
        };
        Ok(self.scaling.scale(latent))
    }

    fn encode_unscaled(&self, image: Tensor<4>) -> sd_core::Result<Tensor<4>> {
        Ok(self.posterior(image)?.mean)
    }

    fn decode(&self, latent: Tensor<4>) -> sd_core::Result<Tensor<4>> {
        check_latent(&self.spec, &latent)?;
        let latent = self.scaling.unscale(latent);
        self.way(Direction::Decode).run(latent)
    }
}
