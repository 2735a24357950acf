use burn::module::Module;
use burn::tensor::Device;

use super::VaeConfig;
use super::blocks::{EPSILON, MidBlock, UpDecoderBlock2D};
use super::description::Operation;
use crate::layers::{Conv2d, GroupNorm, pack_fields};

/// From latents to pixels.
#[derive(Module, Debug)]
pub(super) struct Decoder {
    /// From the latent's channels to the coarsest block's.
    pub(super) conv_in: Conv2d,
    /// Up to the picture's resolution, the latent's first.
    pub(super) up_blocks: Vec<UpDecoderBlock2D>,
    /// At the latent's resolution, before the blocks.
    pub(super) mid_block: MidBlock,
    /// Before the last convolution, SiLU behind it.
    pub(super) conv_norm_out: GroupNorm,
    /// To the picture's channels.
    pub(super) conv_out: Conv2d,
}

impl Decoder {
    pub(super) fn new(config: &VaeConfig, device: &Device) -> Self {
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let (coarsest, finest) = (channels[0], channels[channels.len() - 1]);
        let block = |i: usize| {
            let io = [channels[i.saturating_sub(1)], channels[i]];
            UpDecoderBlock2D::new(config, io, i + 1 < channels.len(), device)
        };
        Self {
            conv_in: Conv2d::same(config.latent_channels, coarsest, 3, device),
            up_blocks: (0..channels.len()).map(block).collect(),
            mid_block: MidBlock::new(config, coarsest, device),
            conv_norm_out: GroupNorm::new(config.norm_num_groups, finest, EPSILON, device),
            conv_out: Conv2d::same(finest, config.out_channels, 3, device),
        }
    }

    /// `[n, latent, h, w]` to `[n, out, f·h, f·w]`, f the model's factor.
    pub(super) fn layers(&self) -> impl Iterator<Item = Operation<'_>> {
        let blocks = self.up_blocks.iter().flat_map(UpDecoderBlock2D::layers);
        let out = Operation::normed(&self.conv_norm_out, &self.conv_out);
        [Operation::conv(&self.conv_in)]
            .into_iter()
            .chain(self.mid_block.layers())
            .chain(blocks)
            .chain([out])
    }
}

pack_fields!(Decoder: conv_in, mid_block, up_blocks, conv_out);
