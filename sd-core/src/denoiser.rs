use std::sync::Arc;

use burn::tensor::{Device, FloatDType, Tensor};

use crate::{Conditioning, NoiseSchedule, PredictionType, Resident, Result};

/// What a program must know of a [`Denoiser`] to run it.
#[derive(Debug, Clone)]
pub struct DenoiserSpec {
    /// The noise levels the network was trained on.
    pub schedule: Arc<NoiseSchedule>,
    /// What the network's output means.
    pub prediction: PredictionType,
    /// Channels of the latent it denoises: 4.
    pub latent_channels: usize,
    /// Height and width it was trained at, in latent pixels: 64 for Stable Diffusion 1.
    pub sample_size: [usize; 2],
    /// Width of the token embeddings it attends to: 768 for Stable Diffusion 1.
    pub context_width: usize,
    /// Where it computes; inputs must live there.
    pub device: Device,
    /// The precision it computes in; inputs must have it.
    pub dtype: FloatDType,
}

/// The network that predicts the noise in a latent: one evaluation, nothing else.
///
/// Guidance, noise levels and the loop live elsewhere, so a U-Net, a transformer, a remote
/// service or a closure with a formula in it can stand here.
pub trait Denoiser: Send + Sync {
    /// What this network works on.
    fn spec(&self) -> &DenoiserSpec;

    /// Computes, once per run, what does not change between its steps, and keeps it in
    /// [`Conditioning::prepared`]. The result must predict the same as the unprepared
    /// conditioning does. The default keeps nothing.
    ///
    /// # Errors
    /// As [`predict`](Self::predict) for conditioning that does not fit.
    fn prepare(&self, conditioning: Conditioning) -> Result<Conditioning> {
        Ok(conditioning)
    }

    /// The network's raw output for `x` `[n, c, h, w]` of unit variance at timestep `t`
    /// (0 ..= 999, fractions allowed), of the same shape; with twice the channels where it also
    /// learned its variance. What it means is [`DenoiserSpec::prediction`].
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when `x` or the conditioning does not fit.
    fn predict(&self, x: Tensor<4>, t: f64, conditioning: &Conditioning) -> Result<Tensor<4>>;

    /// How to know of the memory it takes and to have a say in it. The default, `None`: it holds
    /// nothing worth knowing of.
    fn resident(&self) -> Option<&dyn Resident> {
        None
    }
}
