use burn::module::Module;
use burn::tensor::{Device, Tensor};

use sd_core::Result;
use sd_kernels::Activation;

use super::blocks::{DownEncoderBlock2D, EPSILON, MidBlock, plain};
use super::{StripRows, VaeConfig};
use crate::layers::{Conv2d, Epilogue, GroupNorm, Output, StripConv, Strips, pack_fields};

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
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.conv_in.forward(x, Epilogue::NONE);
        let x = self.down_blocks.iter().fold(x, |x, b| b.forward(x));
        let x = self.mid_block.forward(x);
        let x = self.conv_norm_out.forward(x, Activation::Silu);
        self.conv_out.forward(x, Epilogue::NONE)
    }

    /// [`forward`](Self::forward) of one picture, `[1, in, f·h, f·w]`, in strips.
    pub(super) fn forward_strips(&self, x: Tensor<4>, strips: &StripRows) -> Result<Tensor<4>> {
        let output = |level: usize, measured| Output {
            rows: strips.rows[level],
            measured,
        };
        let (x, finest) = (Strips::whole(x), self.down_blocks.len() - 1);
        let mut x = plain(&self.conv_in).consume(x, output(finest, true), |_| None)?;
        for (i, block) in self.down_blocks.iter().enumerate() {
            let level = finest - i;
            let (rows, halved) = (strips.rows[level], strips.rows[level.saturating_sub(1)]);
            x = block.forward_strips(x, rows, halved)?;
        }
        let x = (self.mid_block).forward_strips(x, strips.rows[0], strips.attention)?;
        let conv_out = StripConv {
            norm: Some(&self.conv_norm_out),
            ..plain(&self.conv_out)
        };
        let x = conv_out.consume(x, output(0, false), |_| None)?;
        Ok(x.join())
    }
}

pack_fields!(Encoder: conv_in, down_blocks, mid_block, conv_out);
