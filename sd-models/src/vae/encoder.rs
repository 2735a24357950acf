use burn::module::Module;
use burn::tensor::Device;

use super::VaeConfig;
use super::blocks::{DownEncoderBlock2D, EPSILON, MidBlock};
use super::description::Operation;
use crate::layers::{Conv2d, GroupNorm, pack_fields};

/// From pixels to the parameters of a distribution of latents.
#[derive(Module, Debug)]
pub(super) struct Encoder {
    /// From the picture's channels to the first block's.
    pub(super) conv_in: Conv2d,
    /// Down to the latent's resolution, the picture's first.
    pub(super) down_blocks: Vec<DownEncoderBlock2D>,
    /// At the latent's resolution.
    pub(super) mid_block: MidBlock,
    /// Before the last convolution, SiLU behind it.
    pub(super) conv_norm_out: GroupNorm,
    /// To a mean and a log-variance for each of the latent's channels.
    pub(super) conv_out: Conv2d,
}

impl Encoder {
    pub(super) fn new(config: &VaeConfig, device: &Device) -> Self {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let block = |i: usize| {
            let io = [channels[i.saturating_sub(1)], channels[i]];
            DownEncoderBlock2D::new(config, io, i + 1 < channels.len(), device)
        };
        Self {
            conv_in: Conv2d::same(config.in_channels, first, 3, device),
            down_blocks: (0..channels.len()).map(block).collect(),
            mid_block: MidBlock::new(config, last, device),
            conv_norm_out: GroupNorm::new(config.norm_num_groups, last, EPSILON, device),
            conv_out: Conv2d::same(last, 2 * config.latent_channels, 3, device),
        }
    }

    /// `[n, in, f·h, f·w]` to `[n, 2 · latent, h, w]`, f the model's factor.
    pub(super) fn layers(&self) -> impl Iterator<Item = Operation<'_>> {
        let blocks = self.down_blocks.iter().flat_map(DownEncoderBlock2D::layers);
        let out = Operation::normed(&self.conv_norm_out, &self.conv_out);
        [Operation::conv(&self.conv_in)]
            .into_iter()
            .chain(blocks)
            .chain(self.mid_block.layers())
            .chain([out])
    }
}

pack_fields!(Encoder: conv_in, down_blocks, mid_block, conv_out);
