use burn::module::Module;
use burn::tensor::Device;

use super::VaeConfig;
use super::description::Operation;
use crate::layers::{
    Attention, AttentionConfig, Downsample2D, Padding, ResnetBlock2D, ResnetConfig, Upsample2D,
    pack_fields,
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

    pub(super) fn layers(&self) -> impl Iterator<Item = Operation<'_>> {
        let halving = self.downsamplers.iter().map(|d| Operation::conv(&d.conv));
        self.resnets
            .iter()
            .flat_map(Operation::resnet)
            .chain(halving)
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

    pub(super) fn layers(&self) -> impl Iterator<Item = Operation<'_>> {
        let doubling = self.upsamplers.iter().map(|u| Operation::conv(&u.conv));
        self.resnets
            .iter()
            .flat_map(Operation::resnet)
            .chain(doubling)
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

    pub(super) fn layers(&self) -> impl Iterator<Item = Operation<'_>> {
        self.resnets.iter().enumerate().flat_map(|(i, resnet)| {
            let attention = self.attentions.get(i).map(Operation::Attention);
            Operation::resnet(resnet).into_iter().chain(attention)
        })
    }
}

pack_fields!(DownEncoderBlock2D: resnets, downsamplers);
pack_fields!(UpDecoderBlock2D: resnets, upsamplers);
pack_fields!(MidBlock: resnets, attentions);

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
