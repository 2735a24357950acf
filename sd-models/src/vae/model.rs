use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{Decoder, Encoder, VaeConfig};
use crate::layers::{Conv2d, Pack, runs_kernels};

/// The autoencoder of Stable Diffusion: a variational autoencoder (Kingma & Welling 2013,
/// arXiv:1312.6114) whose latents are pictures too, an eighth as high and wide (Rombach et al.
/// 2022, arXiv:2112.10752, section 3.1).
///
/// Field names are those of diffusers' `AutoencoderKL`, and so of its checkpoints.
#[derive(Module, Debug)]
pub struct AutoencoderKL {
    /// From pixels to latents.
    pub encoder: Encoder,
    /// From latents to pixels.
    pub decoder: Decoder,
    /// 1×1, behind the encoder.
    pub quant_conv: Option<Conv2d>,
    /// 1×1, before the decoder.
    pub post_quant_conv: Option<Conv2d>,
}

impl AutoencoderKL {
    /// A network whose weights are still to be loaded; until then it takes next to no memory.
    pub fn new(config: &VaeConfig, device: &Device) -> Self {
        let pointwise = |channels| Conv2d::same(channels, channels, 1, device);
        let latent = config.latent_channels;
        Self {
            encoder: Encoder::new(config, device),
            decoder: Decoder::new(config, device),
            quant_conv: config.use_quant_conv.then(|| pointwise(2 * latent)),
            post_quant_conv: config.use_post_quant_conv.then(|| pointwise(latent)),
        }
    }

    /// Hands the weights over to the kernels, where there are kernels for them, for pictures of
    /// about `side` × `side` pixels: the network is then several times faster, and its weights can
    /// no longer be read.
    pub fn optimize(&mut self, side: usize) {
        if !runs_kernels(&self.decoder.conv_in.weight.val()) {
            return;
        }
        self.encoder.pack(side);
        self.decoder.pack(side);
        self.quant_conv.pack(side);
        self.post_quant_conv.pack(side);
    }

    /// Pixels `[n, in, f·h, f·w]` to the distribution of their latents.
    pub fn encode(&self, image: Tensor<4>) -> Posterior {
        let moments = self.encoder.forward(image);
        Posterior::new(match &self.quant_conv {
            Some(conv) => conv.forward(moments),
            None => moments,
        })
    }

    /// Unscaled latents `[n, latent, h, w]` to pixels `[n, out, f·h, f·w]`.
    pub fn decode(&self, latent: Tensor<4>) -> Tensor<4> {
        self.decoder.forward(match &self.post_quant_conv {
            Some(conv) => conv.forward(latent),
            None => latent,
        })
    }
}

/// A normal distribution for every number of a latent, unscaled.
#[derive(Debug, Clone)]
pub struct Posterior {
    /// `[n, latent, h, w]`.
    pub mean: Tensor<4>,
    /// Logarithm of the variance, `[n, latent, h, w]`, in `[-30, 20]`.
    pub log_variance: Tensor<4>,
}

impl Posterior {
    /// From means and log-variances one behind the other, `[n, 2 · latent, h, w]`. The
    /// log-variances are clamped to `[-30, 20]`, as in training.
    pub fn new(moments: Tensor<4>) -> Self {
        let channels = moments.dims()[1] / 2;
        let log_variance = moments.clone().narrow(1, channels, channels);
        Self {
            mean: moments.narrow(1, 0, channels),
            log_variance: log_variance.clamp(-30.0, 20.0),
        }
    }

    /// `mean + σ · noise`, with standard normal `noise` of the same shape.
    pub fn sample(self, noise: Tensor<4>) -> Tensor<4> {
        self.mean + (self.log_variance * 0.5).exp() * noise
    }
}
