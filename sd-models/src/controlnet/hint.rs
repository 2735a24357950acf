use burn::module::Module;
use burn::tensor::{Device, Tensor};
use sd_kernels::Activation;

use super::ControlNetConfig;
use crate::layers::{Conv2d, Epilogue, Padding, pack_fields};

/// The picture at the latent's size: convolutions, SiLU behind each but the last, half of which halve
/// the sides.
///
/// Field names are those of diffusers' `ControlNetConditioningEmbedding`.
#[derive(Module, Debug)]
pub(super) struct Hint {
    conv_in: Conv2d,
    /// Two for each halving.
    blocks: Vec<Conv2d>,
    conv_out: Conv2d,
}

impl Hint {
    pub(super) fn new(config: &ControlNetConfig, device: &Device) -> Self {
        let widths = &config.embedding_channels;
        let halving = |from: &usize, to: &usize| {
            let halved = Conv2d::new([*from, *to], 3, 2, Padding::Even(1), device);
            [Conv2d::same(*from, *from, 3, device), halved]
        };
        let last = widths[widths.len() - 1];
        Self {
            conv_in: Conv2d::same(config.conditioning_channels, widths[0], 3, device),
            blocks: (widths.iter().zip(&widths[1..]))
                .flat_map(|(from, to)| halving(from, to))
                .collect(),
            conv_out: Conv2d::same(last, config.unet.blocks[0].channels, 3, device),
        }
    }

    /// `[n, c, h, w]` in pixels to `[n, channels, h', w']` in the latent's.
    pub(super) fn forward(&self, picture: Tensor<4>) -> Tensor<4> {
        let silu = || Epilogue::activation(Activation::Silu);
        let x = self.conv_in.forward(picture, silu());
        let x = (self.blocks.iter()).fold(x, |x, layer| layer.forward(x, silu()));
        self.conv_out.forward(x, Epilogue::NONE)
    }
}

pack_fields!(Hint: conv_in, blocks, conv_out);
