use burn::tensor::{DType, Device, FloatDType, Tensor};
use sd_core::{Autoencoder, AutoencoderSpec, Error, Noise, WeightBytes};

use super::model::per_image;
use super::tiling::{Planner, Tiles};
use super::{AutoencoderKL, DecodePlan, Direction, Limits, Posterior, Tiling, VaeConfig};
use crate::{ConfigFile, Files, LoadOptions, Result, Weights};

/// An autoencoder's files, found sound; the weights are still in them.
#[derive(Debug, Clone)]
pub struct VaeFiles {
    weights: Weights,
    config: VaeConfig,
    spec: AutoencoderSpec,
    options: LoadOptions,
    tiling: Tiling,
    limits: Limits,
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
        let config = VaeConfig::new(&file.on_unknown(options.unknown_settings))?;
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
            spec,
            options,
            tiling: Tiling::default(),
            limits: Limits::default(),
        })
    }

    /// The same with pictures cut as `tiling` says.
    #[must_use]
    pub fn with_tiling(self, tiling: Tiling) -> Self {
        Self { tiling, ..self }
    }

    /// The same within `limits` of the device's memory.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The pictures and latents that the autoencoder will work on.
    pub fn spec(&self) -> &AutoencoderSpec {
        &self.spec
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
            config: self.config.clone(),
            spec: self.spec.clone(),
            bytes,
            tiling: self.tiling,
            limits: self.limits,
        })
    }
}

/// An [`AutoencoderKL`] with its weights: the [`Autoencoder`] of every Stable Diffusion model.
#[derive(Debug, Clone)]
pub struct Vae {
    model: AutoencoderKL,
    config: VaeConfig,
    spec: AutoencoderSpec,
    tiling: Tiling,
    limits: Limits,
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
    pub fn with_tiling(self, tiling: Tiling) -> Self {
        Self { tiling, ..self }
    }

    /// The same within `limits` of the device's memory.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The way that one picture of `size`, height and width in pixels, is encoded or decoded, and
    /// the memory that takes. With [`Tiling::Blend`] the plan is that of a tile, plus the picture.
    ///
    /// # Errors
    /// [`Error::Memory`] where it does not fit into the [`Limits`], [`Error::InvalidArgument`] for
    /// a tile that is no tile.
    pub fn plan(&self, direction: Direction, size: [usize; 2]) -> sd_core::Result<DecodePlan> {
        let mut latent = size.map(|side| side / self.spec.factor);
        if let Tiling::Blend { tile, overlap } = self.tiling {
            self.tiles(direction, tile, overlap)?;
            latent = latent.map(|side| side.min(tile / self.spec.factor));
        }
        let kernels = self.model.is_optimized();
        let number = DType::from(self.spec.dtype).size() as u64;
        let planner = Planner::new(&self.model, direction, latent, (number, kernels));
        match self.tiling {
            Tiling::Auto => planner.auto(self.limits),
            Tiling::Strips => planner.strips(self.limits),
            Tiling::Whole => planner.within(planner.whole(), self.limits),
            Tiling::Blend { .. } => {
                let mut plan = planner.whole();
                // The tiles' rows, and the picture that is made of them.
                let picture = (size[0] as u64).saturating_mul(size[1] as u64);
                let pixel = number * self.config.out_channels as u64;
                let whole = picture.saturating_mul(2 * pixel);
                plan.peak_bytes = plan.peak_bytes.saturating_add(whole);
                planner.within(plan, self.limits)
            }
        }
    }

    fn tiles(&self, direction: Direction, tile: usize, overlap: f64) -> sd_core::Result<Tiles> {
        let factor = self.spec.factor;
        let scale = match direction {
            Direction::Encode => [factor, 1],
            Direction::Decode => [1, factor],
        };
        Tiles::new(tile, overlap, factor, scale)
    }

    /// The plan for `x`, which is what goes in that direction.
    fn plan_for(&self, direction: Direction, x: &Tensor<4>) -> sd_core::Result<DecodePlan> {
        let [_, _, h, w] = x.dims();
        let scale = match direction {
            Direction::Encode => 1,
            Direction::Decode => self.spec.factor,
        };
        self.plan(direction, [h, w].map(|side| side.saturating_mul(scale)))
    }

    /// `x` through the network in the pieces of a plan without strips: all at once, picture by
    /// picture or tile by tile.
    fn in_pieces(
        &self,
        direction: Direction,
        x: Tensor<4>,
        plan: &DecodePlan,
    ) -> sd_core::Result<Tensor<4>> {
        let network = |x: Tensor<4>| match plan.fits(x.dims()[0], self.limits) {
            true => Ok(self.model.run(direction, x)),
            false => per_image(x, |x| Ok(self.model.run(direction, x))),
        };
        match self.tiling {
            Tiling::Blend { tile, overlap } => {
                self.tiles(direction, tile, overlap)?.run(x, network)
            }
            _ => network(x),
        }
    }

    fn check_dtype(&self, what: &'static str, found: DType) -> sd_core::Result<()> {
        let expected = DType::from(self.spec.dtype);
        if found == expected {
            return Ok(());
        }
        let (found, expected) = (format!("{found:?}"), format!("expected {expected:?}"));
        Err(Error::invalid(what, found, expected))
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
        let ([n, c, h, w], factor) = (image.dims(), self.spec.factor);
        let fits = |side: usize| side > 0 && side.is_multiple_of(factor);
        if n == 0 || c != self.config.in_channels || !fits(h) || !fits(w) {
            let channels = self.config.in_channels;
            let expected = format!("[n, {channels}, h, w] with h and w multiples of {factor}");
            return Err(Error::shape("image", &image.dims(), expected));
        }
        self.check_dtype("image dtype", image.dtype())?;
        let plan = self.plan_for(Direction::Encode, &image)?;
        let posterior = match &plan.strips {
            Some(strips) => self.model.encode_strips(image, strips)?,
            None => Posterior::new(self.in_pieces(Direction::Encode, image, &plan)?),
        };
        sd_kernels::release_outputs();
        let latent = match noise {
            None => posterior.mean,
            Some(noise) => {
                let noise = noise.normal(posterior.mean.dims())?;
                let (device, dtype) = (&self.spec.device, DType::from(self.spec.dtype));
                posterior.sample(Tensor::from_data(noise, (device, dtype)))
            }
        };
        Ok((latent - self.config.shift_factor) * self.config.scaling_factor)
    }

    fn decode(&self, latent: Tensor<4>) -> sd_core::Result<Tensor<4>> {
        let [n, c, h, w] = latent.dims();
        if n == 0 || c != self.config.latent_channels || h == 0 || w == 0 {
            let expected = format!("[n, {}, h, w]", self.config.latent_channels);
            return Err(Error::shape("latent", &latent.dims(), expected));
        }
        self.check_dtype("latent dtype", latent.dtype())?;
        let latent = latent / self.config.scaling_factor + self.config.shift_factor;
        let plan = self.plan_for(Direction::Decode, &latent)?;
        let image = match &plan.strips {
            Some(strips) => self.model.decode_strips(latent, strips),
            None => self.in_pieces(Direction::Decode, latent, &plan),
        };
        // Nothing else has outputs so large.
        sd_kernels::release_outputs();
        image
    }
}
