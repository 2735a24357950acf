use burn::module::Module;
use burn::tensor::{Device, Tensor};

use sd_core::Result;

use super::VaeConfig;
use crate::layers::{
    Attention, AttentionConfig, Conv2d, Downsample2D, Output, Padding, ResnetBlock2D, ResnetConfig,
    StripConv, Strips, Upsample2D, pack_fields,
};

/// ε of every normalisation in the autoencoder.
pub(super) const EPSILON: f64 = 1e-6;

/// One resolution of the encoder: residual blocks, then a halving.
#[derive(Module, Debug)]
pub(super) struct DownEncoderBlock2D {
    /// The residual blocks in order.
    pub(super) resnets: Vec<ResnetBlock2D>,
    /// One, or none at the coarsest resolution.
    pub(super) downsamplers: Vec<Downsample2D>,
}

impl DownEncoderBlock2D {
    pub(super) fn new(
        config: &VaeConfig,
        [inputs, outputs]: [usize; 2],
        halve: bool,
        device: &Device,
    ) -> Self {
        let downsampler = || Downsample2D::new(outputs, Padding::BottomRight, device);
        Self {
            resnets: resnets(config, [inputs, outputs], config.layers_per_block, device),
            downsamplers: halve.then(downsampler).into_iter().collect(),
        }
    }

    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.resnets.iter().fold(x, |x, r| r.forward(x, None));
        self.downsamplers.iter().fold(x, |x, d| d.forward(x))
    }

    /// [`forward`](Self::forward) in strips of `rows` rows, then of `halved`.
    pub(super) fn forward_strips(&self, x: Strips, rows: usize, halved: usize) -> Result<Strips> {
        let is_last = self.downsamplers.is_empty();
        let x = resnet_strips(&self.resnets, x, rows, is_last)?;
        let output = Output {
            rows: halved,
            measured: true,
        };
        self.downsamplers.iter().try_fold(x, |x, layer| {
            plain(&layer.conv).consume(x, output, |_| None)
        })
    }
}

/// One resolution of the decoder: residual blocks, then a doubling.
#[derive(Module, Debug)]
pub(super) struct UpDecoderBlock2D {
    /// The residual blocks in order.
    pub(super) resnets: Vec<ResnetBlock2D>,
    /// One, or none at the picture's resolution.
    pub(super) upsamplers: Vec<Upsample2D>,
}

impl UpDecoderBlock2D {
    pub(super) fn new(
        config: &VaeConfig,
        [inputs, outputs]: [usize; 2],
        double: bool,
        device: &Device,
    ) -> Self {
        let layers = config.layers_per_block + 1;
        Self {
            resnets: resnets(config, [inputs, outputs], layers, device),
            upsamplers: (double.then(|| Upsample2D::new(outputs, device)))
                .into_iter()
                .collect(),
        }
    }

    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.resnets.iter().fold(x, |x, r| r.forward(x, None));
        self.upsamplers.iter().fold(x, |x, u| u.forward(x, None))
    }

    /// [`forward`](Self::forward) in strips of `rows` rows, then of `doubled`.
    pub(super) fn forward_strips(&self, x: Strips, rows: usize, doubled: usize) -> Result<Strips> {
        let is_last = self.upsamplers.is_empty();
        let x = resnet_strips(&self.resnets, x, rows, is_last)?;
        let output = Output {
            rows: doubled,
            measured: true,
        };
        self.upsamplers.iter().try_fold(x, |x, layer| {
            plain(&layer.conv).consume(x, output, |_| None)
        })
    }
}

/// The coarsest resolution: two residual blocks, between which all pixels attend to each other.
#[derive(Module, Debug)]
pub(super) struct MidBlock {
    /// Attention with one head, in most models.
    pub(super) attentions: Vec<Attention>,
    /// The two residual blocks.
    pub(super) resnets: Vec<ResnetBlock2D>,
}

impl MidBlock {
    pub(super) fn new(config: &VaeConfig, channels: usize, device: &Device) -> Self {
        let attention = || {
            let config = AttentionConfig {
                width: channels,
                context_width: channels,
                heads: 1,
                bias: true,
                norm: Some((config.norm_num_groups, EPSILON)),
            };
            Attention::new(config, device)
        };
        let attentions = config.mid_block_add_attention.then(attention);
        Self {
            attentions: attentions.into_iter().collect(),
            resnets: resnets(config, [channels; 2], 2, device),
        }
    }

    pub(super) fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(x, None);
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward_picture(x);
            }
        }
        x
    }

    /// [`forward`](Self::forward) in strips of `rows` rows; `attention` rows are queries at once.
    pub(super) fn forward_strips(
        &self,
        mut x: Strips,
        rows: usize,
        attention: usize,
    ) -> Result<Strips> {
        let measured = true;
        for (i, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward_strips(x, Output { rows, measured })?;
            if let Some(layer) = self.attentions.get(i) {
                let rows = attention;
                x = layer.forward_strips(x, Output { rows, measured })?;
            }
        }
        Ok(x)
    }
}

pack_fields!(DownEncoderBlock2D: resnets, downsamplers);
pack_fields!(UpDecoderBlock2D: resnets, upsamplers);
pack_fields!(MidBlock: resnets, attentions);

/// A convolution of strips with nothing before it.
pub(super) fn plain(conv: &Conv2d) -> StripConv<'_> {
    StripConv { conv, norm: None }
}

/// Residual blocks in strips of `rows` rows. The last one's result is `measured` if it is
/// normalised next.
fn resnet_strips(
    resnets: &[ResnetBlock2D],
    x: Strips,
    rows: usize,
    measured: bool,
) -> Result<Strips> {
    resnets.iter().enumerate().try_fold(x, |x, (i, resnet)| {
        let measured = measured || i + 1 < resnets.len();
        resnet.forward_strips(x, Output { rows, measured })
    })
}

fn resnets(
    config: &VaeConfig,
    [inputs, outputs]: [usize; 2],
    count: usize,
    device: &Device,
) -> Vec<ResnetBlock2D> {
    let resnet = |layer| {
        let config = ResnetConfig {
            inputs: if layer == 0 { inputs } else { outputs },
            outputs,
            time: None,
            groups: config.norm_num_groups,
            epsilon: EPSILON,
            output_scale: 1.0,
        };
        ResnetBlock2D::new(config, device)
    };
    (0..count).map(resnet).collect()
}
