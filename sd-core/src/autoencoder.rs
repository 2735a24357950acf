use burn::tensor::{Device, FloatDType, Tensor};

use crate::{Error, Noise, Result};

/// Facts of an [`Autoencoder`] that a program must know to run it.
#[derive(Debug, Clone)]
pub struct AutoencoderSpec {
    /// Channels of a latent: 4.
    pub latent_channels: usize,
    /// Pixels per latent pixel in each direction: 8.
    pub factor: usize,
    /// Device it computes on; inputs must live there.
    pub device: Device,
    /// The precision it computes in; inputs must have it.
    pub dtype: FloatDType,
}

/// Translates between pixels and latents.
///
/// Pixels are `[n, 3, h·factor, w·factor]` RGB in `[-1, 1]`. Latents are `[n, c, h, w]`, already
/// multiplied by the model's scaling factor, that is of about unit variance: what a
/// [`Denoiser`](crate::Denoiser) works on.
pub trait Autoencoder: Send + Sync {
    /// Facts of this autoencoder.
    fn spec(&self) -> &AutoencoderSpec;

    /// Pixels to latents: a sample of the posterior with `noise`, its mean without.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when a side is not a multiple of the factor.
    fn encode(&self, image: Tensor<4>, noise: Option<&mut dyn Noise>) -> Result<Tensor<4>>;

    /// Pixels to the mode of the posterior as the network itself has it, without the scaling that
    /// latents have elsewhere, `[n, c, h, w]`: what InstructPix2Pix was trained to see of a picture
    /// (Brooks et al. 2023, arXiv:2211.09800).
    ///
    /// # Errors
    /// As [`encode`](Self::encode). The default is
    /// [`Error::Unsupported`](crate::Error::Unsupported): nobody else knows the scaling.
    fn encode_unscaled(&self, image: Tensor<4>) -> Result<Tensor<4>> {
        drop(image);
        let what = "this autoencoder does not say what a picture is without its scaling \
                    (Autoencoder::encode_unscaled)";
        Err(Error::Unsupported(what.into()))
    }

    /// Latents to pixels. Values may lie a little outside `[-1, 1]`; clamping is the caller's.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when the latent has other channels.
    fn decode(&self, latent: Tensor<4>) -> Result<Tensor<4>>;
}
