use burn::module::Module;
use burn::tensor::Device;
use sd_core::WeightBytes;

use super::TinyVaeConfig;
use crate::layers::{Conv2d, Pack, Padding, Scale, Unpacked, pack_fields};
use crate::vae::Direction;
use crate::vae::description::{Convolution, FeatureMap, Layer, Operation, Residual};
use crate::{LoadOptions, Result, Weights};

/// The tiny autoencoder (TAESD, <https://github.com/madebyollin/taesd>): convolutions and ReLU, no
/// normalisation and no attention, distilled from the large one, whose scaled latents it reads and
/// writes.
///
/// Field names are those of diffusers' `AutoencoderTiny`, and so of its checkpoints.
#[derive(Module, Debug)]
pub struct AutoencoderTiny {
    /// From pixels to latents.
    encoder: Stack,
    /// From latents to pixels.
    decoder: Stack,
}

/// Layers one after the other. Those without weights have places in the list too.
#[derive(Module, Debug)]
struct Stack {
    layers: Vec<Option<Step>>,
}

/// One layer that has weights.
#[derive(Module, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a few dozen, made once and never moved"
)]
enum Step {
    Convolution(Conv2d),
    Block(TinyBlock),
}

/// Three convolutions around which the input is added back, ReLU behind each and behind the sum.
#[derive(Module, Debug)]
struct TinyBlock {
    /// With a place for the ReLU behind the first and the second.
    conv: [Option<Conv2d>; 5],
}

impl TinyBlock {
    fn new(channels: usize, device: &Device) -> Self {
        let conv = || Some(Conv2d::same(channels, channels, 3, device));
        Self {
            conv: [conv(), None, conv(), None, conv()],
        }
    }

    fn layers(&self) -> Vec<Operation<'_>> {
        let last = self.conv.len() - 1;
        let places = self.conv.iter().enumerate();
        let convolutions = places.filter_map(|(i, conv)| Some((i, conv.as_ref()?)));
        let operation = |(i, conv)| {
            Operation::Convolution(Convolution {
                norm: None,
                conv,
                residual: match i {
                    0 => Residual::Keep,
                    i if i == last => Residual::Add(None),
                    _ => Residual::None,
                },
                rectified: true,
            })
        };
        convolutions.map(operation).collect()
    }
}

impl Stack {
    fn encoder(config: &TinyVaeConfig, device: &Device) -> Self {
        let channels = config.encoder_channels;
        let mut layers = Vec::new();
        for (i, blocks) in config.encoder_blocks.iter().enumerate() {
            let conv = match i {
                0 => Conv2d::same(config.in_channels, channels, 3, device),
                _ => Conv2d::new([channels; 2], 3, 2, Padding::Even(1), device).unbiased(),
            };
            layers.push(Some(Step::Convolution(conv)));
            layers.extend(Self::blocks(*blocks, channels, device));
        }
        let out = Conv2d::same(channels, config.latent_channels, 3, device);
        layers.push(Some(Step::Convolution(out)));
        Self { layers }
    }

    fn decoder(config: &TinyVaeConfig, device: &Device) -> Self {
        let channels = config.decoder_channels;
        let first = Conv2d::same(config.latent_channels, channels, 3, device);
        // A ReLU behind it.
        let mut layers = vec![Some(Step::Convolution(first)), None];
        let last = config.decoder_blocks.len() - 1;
        for (i, blocks) in config.decoder_blocks.iter().enumerate() {
            layers.extend(Self::blocks(*blocks, channels, device));
            if i < last {
                // The doubling, which the convolution does.
                layers.push(None);
                let conv = Conv2d::same(channels, channels, 3, device);
                layers.push(Some(Step::Convolution(conv.doubling().unbiased())));
            }
        }
        let out = Conv2d::same(channels, config.out_channels, 3, device);
        layers.push(Some(Step::Convolution(out)));
        Self { layers }
    }

    fn blocks(
        count: usize,
        channels: usize,
        device: &Device,
    ) -> impl Iterator<Item = Option<Step>> {
        (0..count).map(move |_| Some(Step::Block(TinyBlock::new(channels, device))))
    }

    /// The layers in order; `rectified` says whether a ReLU is behind the first.
    fn layers(&self, rectified: bool) -> impl Iterator<Item = Operation<'_>> {
        let steps = self.layers.iter().flatten().enumerate();
        steps.flat_map(move |(i, step)| match step {
            Step::Convolution(conv) => vec![Operation::Convolution(Convolution {
                norm: None,
                conv,
                residual: Residual::None,
                rectified: rectified && i == 0,
            })],
            Step::Block(block) => block.layers(),
        })
    }
}

impl AutoencoderTiny {
    /// A network whose weights are still to be loaded; until then it takes next to no memory.
    pub fn new(config: &TinyVaeConfig, device: &Device) -> Self {
        Self {
            encoder: Stack::encoder(config, device),
            decoder: Stack::decoder(config, device),
        }
    }

    /// A network with the weights of a file, packed for the kernels where there are kernels: it is
    /// then several times faster, and its weights can no longer be read. Also gives the memory the
    /// weights take.
    ///
    /// # Errors
    /// As [`Weights::load_into`].
    pub fn load(
        config: &TinyVaeConfig,
        weights: &Weights,
        options: &LoadOptions,
    ) -> Result<(Self, WeightBytes)> {
        weights.load_packed(Self::new(config, &options.device), options)
    }

    /// True where the kernels have the weights.
    pub(super) fn is_optimized(&self) -> bool {
        self.convolutions().any(Conv2d::is_packed)
    }

    fn convolutions(&self) -> impl Iterator<Item = &Conv2d> {
        let steps = self.decoder.layers.iter().flatten();
        steps.filter_map(|step| match step {
            Step::Convolution(conv) => Some(conv),
            Step::Block(_) => None,
        })
    }

    /// The layers of a direction in order: pixels in `[0, 1]` to latents, and bounded latents to
    /// pixels in `[0, 1]`.
    pub(super) fn layers(&self, direction: Direction) -> Vec<Layer<'_>> {
        let doubles = |conv: &&Conv2d| conv.scale() == Scale::Doubled;
        let doublings = self.convolutions().filter(doubles).count();
        let (stack, level, rectified) = match direction {
            Direction::Encode => (&self.encoder, doublings, false),
            Direction::Decode => (&self.decoder, 0, true),
        };
        let operations: Vec<_> = stack.layers(rectified).collect();
        let channels = match operations.first() {
            Some(Operation::Convolution(first)) => first.conv.channels()[0],
            _ => 0,
        };
        Layer::list(FeatureMap { level, channels }, operations)
    }
}

impl Pack for Step {
    fn layers<'a>(&'a mut self, name: &str, layers: &mut Vec<Unpacked<'a>>) {
        match self {
            Self::Convolution(conv) => conv.layers(name, layers),
            Self::Block(block) => block.layers(name, layers),
        }
    }
}

pack_fields!(TinyBlock: conv);
pack_fields!(Stack: layers);
pack_fields!(AutoencoderTiny: encoder, decoder);
