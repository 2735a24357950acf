use burn::module::Module;
use burn::tensor::{Device, Tensor};
use sd_core::{Result, WeightBytes};

use super::description::{FeatureMap, Layer, Operation};
use super::way::per_image;
use super::{Decoder, Direction, Encoder, StripRows, VaeConfig, whole};
use crate::layers::{Conv2d, pack_fields};
use crate::{LoadOptions, Weights};

/// The autoencoder of Stable Diffusion: a variational autoencoder (Kingma & Welling 2013,
/// arXiv:1312.6114) whose latents are pictures too, an eighth as high and wide (Rombach et al.
/// 2022, arXiv:2112.10752, section 3.1).
///
/// Field names are those of diffusers' `AutoencoderKL`, and so of its checkpoints.
#[derive(Module, Debug)]
pub struct AutoencoderKL {
    /// From pixels to latents.
    encoder: Encoder,
    /// From latents to pixels.
    decoder: Decoder,
    /// 1×1, behind the encoder.
    quant_conv: Option<Conv2d>,
    /// 1×1, before the decoder.
    post_quant_conv: Option<Conv2d>,
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

    /// A network with the weights of a file, packed for the kernels where there are kernels: it is
    /// then several times faster, and its weights can no longer be read. Also gives the memory the
    /// weights take.
    ///
    /// # Errors
    /// As [`Weights::load_into`].
    pub fn load(
        config: &VaeConfig,
        weights: &Weights,
        options: &LoadOptions,
    ) -> crate::Result<(Self, WeightBytes)> {
        weights.load_packed(Self::new(config, &options.device), options)
    }

    /// True where the kernels have the weights.
    pub(super) fn is_optimized(&self) -> bool {
        self.decoder.conv_in.is_packed()
    }

    /// The layers of a direction in order.
    pub(super) fn layers(&self, direction: Direction) -> Vec<Layer<'_>> {
        let map = |level, conv: &Conv2d| FeatureMap {
            level,
            channels: conv.channels()[0],
        };
        let (quant, post_quant) = (self.quant_conv.iter(), self.post_quant_conv.iter());
        match direction {
            Direction::Encode => {
                let from = map(self.resolutions() - 1, &self.encoder.conv_in);
                let quant = quant.map(Operation::conv);
                Layer::list(from, self.encoder.layers().chain(quant))
            }
            Direction::Decode => {
                let from = map(0, &self.decoder.conv_in);
                let post_quant = post_quant.map(Operation::conv);
                Layer::list(from, post_quant.chain(self.decoder.layers()))
            }
        }
    }

    fn resolutions(&self) -> usize {
        self.decoder.up_blocks.len()
    }

    /// Pixels `[n, in, f·h, f·w]` to the distribution of their latents.
    pub fn encode(&self, image: Tensor<4>) -> Posterior {
        Posterior::new(self.run(Direction::Encode, image))
    }

    /// Unscaled latents `[n, latent, h, w]` to pixels `[n, out, f·h, f·w]`.
    pub fn decode(&self, latent: Tensor<4>) -> Tensor<4> {
        self.run(Direction::Decode, latent)
    }

    /// `x` through all layers of a direction: pixels to means and log-variances,
    /// `[n, 2 · latent, h, w]`, or latents to pixels.
    pub(super) fn run(&self, direction: Direction, x: Tensor<4>) -> Tensor<4> {
        whole::run(&self.layers(direction), x)
    }

    /// [`encode`](Self::encode) in strips of the rows that `strips` says.
    ///
    /// # Errors
    /// As [`decode_strips`](Self::decode_strips).
    pub fn encode_strips(&self, image: Tensor<4>, strips: &StripRows) -> Result<Posterior> {
        let moments = self.run_strips(Direction::Encode, image, strips)?;
        Ok(Posterior::new(moments))
    }

    /// [`decode`](Self::decode) in strips of the rows that `strips` says, one picture after the
    /// other. The result is the same up to rounding.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](sd_core::Error::InvalidArgument) for other resolutions than the
    /// network's and for strips of no rows, [`Error::Backend`](sd_core::Error::Backend) where a
    /// picture's mean cannot be read from its device.
    pub fn decode_strips(&self, latent: Tensor<4>, strips: &StripRows) -> Result<Tensor<4>> {
        self.run_strips(Direction::Decode, latent, strips)
    }

    fn run_strips(
        &self,
        direction: Direction,
        x: Tensor<4>,
        strips: &StripRows,
    ) -> Result<Tensor<4>> {
        strips.check(self.resolutions())?;
        let layers = self.layers(direction);
        per_image(x, |x| super::strips::run(&layers, x, strips))
    }
}

pack_fields!(AutoencoderKL: encoder, decoder, quant_conv, post_quant_conv);

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
