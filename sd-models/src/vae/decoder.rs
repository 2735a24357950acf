use burn::module::Module;
use burn::tensor::{Device, Tensor};

use sd_core::Result;
use sd_kernels::Activation;

use super::blocks::{EPSILON, MidBlock, UpDecoderBlock2D, plain};
use super::{StripRows, VaeConfig};
use crate::layers::{Conv2d, Epilogue, GroupNorm, Output, StripConv, Strips, pack_fields};

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
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self
            .mid_block
            .forward(self.conv_in.forward(x, Epilogue::NONE));
        let x = self.up_blocks.iter().fold(x, |x, b| b.forward(x));
        let x = self.conv_norm_out.forward(x, Activation::Silu);
        self.conv_out.forward(x, Epilogue::NONE)
    }

    /// [`forward`](Self::forward) of one picture, `[1, latent, h, w]`, in strips.
    pub(super) fn forward_strips(&self, x: Tensor<4>, strips: &StripRows) -> Result<Tensor<4>> {
        let output = |level: usize, measured| Output {
            rows: strips.rows[level],
            measured,
        };
        let x = Strips::whole(x);
        let x = plain(&self.conv_in).consume(x, output(0, true), |_| None)?;
        let mut x = (self.mid_block).forward_strips(x, strips.rows[0], strips.attention)?;
        let finest = self.up_blocks.len() - 1;
        for (level, block) in self.up_blocks.iter().enumerate() {
            let (rows, doubled) = (strips.rows[level], strips.rows[finest.min(level + 1)]);
            x = block.forward_strips(x, rows, doubled)?;
        }
        let conv_out = StripConv {
            norm: Some(&self.conv_norm_out),
            ..plain(&self.conv_out)
        };
        let x = conv_out.consume(x, output(finest, false), |_| None)?;
        Ok(x.join())
    }
}

pack_fields!(Decoder: conv_in, mid_block, up_blocks, conv_out);
