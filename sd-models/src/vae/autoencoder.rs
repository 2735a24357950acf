use burn::tensor::{DType, Device, FloatDType, Tensor};
use sd_core::{Autoencoder, AutoencoderSpec, Error, Noise};

use super::{AutoencoderKL, VaeConfig};
use crate::{ConfigFile, Files, Result};

/// An [`AutoencoderKL`] with its weights: the [`Autoencoder`] of every Stable Diffusion model.
#[derive(Debug, Clone)]
pub struct Vae {
    model: AutoencoderKL,
    config: VaeConfig,
    spec: AutoencoderSpec,
}

impl Vae {
    /// Opens `config.json` and `diffusion_pytorch_model.safetensors` of the folder `folder` of
    /// `files`; the weights are cast to `dtype`, or to f32 where the configuration says that
    /// less overflows (`force_upcast`): [`AutoencoderSpec::dtype`] is what it came to.
    ///
    /// # Errors
    /// As [`VaeConfig::new`], [`Files::weights`] and [`Weights::load_into`](crate::Weights).
    pub fn open(files: &Files, folder: &str, device: &Device, dtype: FloatDType) -> Result<Self> {
        let files = files.folder(folder);
        let config = VaeConfig::new(&ConfigFile::read(&files, "config.json")?)?;
        let is_half = matches!(dtype, FloatDType::F16 | FloatDType::BF16);
        let dtype = if is_half && config.force_upcast {
            FloatDType::F32
        } else {
            dtype
        };
        let weights = files.weights("diffusion_pytorch_model", None)?;
        let mut model = weights.load_into(AutoencoderKL::new(&config, device), dtype)?;
        // 512 × 512, what most pictures have.
        model.optimize(64 * config.factor());
        let spec = AutoencoderSpec {
            latent_channels: config.latent_channels,
            factor: config.factor(),
            device: device.clone(),
            dtype,
        };
        Ok(Self {
            model,
            config,
            spec,
        })
    }

    /// What the network's `config.json` says.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// The bare network.
    pub fn model(&self) -> &AutoencoderKL {
        &self.model
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
        let posterior = self.model.encode(image);
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
        Ok(self.model.decode(latent))
    }
}
