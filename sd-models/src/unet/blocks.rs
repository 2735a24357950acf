use burn::module::Module;
use burn::tensor::{Device, Tensor};
use sd_core::{Cancel, Result};

use super::stage::StageConfig;
use crate::layers::{
    BlockContext, Downsample2D, Padding, ResnetBlock2D, Transformer2DModel, Upsample2D,
    concat_channels, duplicate, pack_fields,
};

/// The prompt as each transformer of a block sees it.
pub(super) type StageContext = Vec<Vec<BlockContext>>;

/// One resolution on the way down: residual blocks, each with a transformer behind it in a
/// `CrossAttnDownBlock2D`, then a halving.
#[derive(Module, Debug)]
pub(super) struct DownBlock {
    /// The residual blocks in order.
    resnets: Vec<ResnetBlock2D>,
    /// One for each residual block, or none (`DownBlock2D`).
    pub(super) attentions: Vec<Transformer2DModel>,
    /// One, or none at the coarsest resolution.
    downsamplers: Vec<Downsample2D>,
}

impl DownBlock {
    pub(super) fn new(config: &StageConfig, padding: Padding, device: &Device) -> Self {
        let downsampler = || Downsample2D::new(config.channels, padding, device);
        Self {
            resnets: resnets(config, device),
            attentions: transformers(config, device),
            downsamplers: config.resample.then(downsampler).into_iter().collect(),
        }
    }

    /// `x` through all layers; each layer's output is kept in `skips` for the way up.
    pub(super) fn forward(
        &self,
        mut x: Tensor<4>,
        time: &Tensor<2>,
        context: &StageContext,
        skips: &mut Vec<Tensor<4>>,
        cancel: &Cancel,
    ) -> Result<Tensor<4>> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            cancel.check()?;
            x = resnet.forward(x, Some(time));
            cancel.check()?;
            x = keep(attend(x, &self.attentions, context, i), skips);
        }
        for downsampler in &self.downsamplers {
            x = keep(downsampler.forward(x), skips);
        }
        Ok(x)
    }
}

/// The coarsest resolution once more: a residual block, then transformers with a residual block
/// behind each.
#[derive(Module, Debug)]
pub(super) struct MidBlock {
    /// One more than there are transformers.
    resnets: Vec<ResnetBlock2D>,
    /// One (`UNetMidBlock2DCrossAttn`) or none (`UNetMidBlock2D`).
    pub(super) attentions: Vec<Transformer2DModel>,
}

impl MidBlock {
    pub(super) fn new(config: &StageConfig, device: &Device) -> Self {
        Self {
            resnets: resnets(config, device),
            attentions: transformers(config, device),
        }
    }

    pub(super) fn forward(
        &self,
        mut x: Tensor<4>,
        time: &Tensor<2>,
        context: &StageContext,
        cancel: &Cancel,
    ) -> Result<Tensor<4>> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            cancel.check()?;
            x = resnet.forward(x, Some(time));
            cancel.check()?;
            x = attend(x, &self.attentions, context, i);
        }
        Ok(x)
    }
}

/// One resolution on the way up: residual blocks that also see what was kept on the way down, each
/// with a transformer behind it in a `CrossAttnUpBlock2D`, then a doubling.
#[derive(Module, Debug)]
pub(super) struct UpBlock {
    /// The residual blocks in order.
    resnets: Vec<ResnetBlock2D>,
    /// One for each residual block, or none (`UpBlock2D`).
    pub(super) attentions: Vec<Transformer2DModel>,
    /// One, or none at the finest resolution.
    upsamplers: Vec<Upsample2D>,
}

impl UpBlock {
    pub(super) fn new(config: &StageConfig, device: &Device) -> Self {
        let upsampler = || Upsample2D::new(config.channels, device);
        Self {
            resnets: resnets(config, device),
            attentions: transformers(config, device),
            upsamplers: config.resample.then(upsampler).into_iter().collect(),
        }
    }

    /// `x` through all layers, taking one of `skips` for each residual block, the last kept first.
    pub(super) fn forward(
        &self,
        mut x: Tensor<4>,
        time: &Tensor<2>,
        context: &StageContext,
        skips: &mut Vec<Tensor<4>>,
        cancel: &Cancel,
    ) -> Result<Tensor<4>> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            if let Some(skip) = skips.pop() {
                x = concat_channels(x, skip);
            }
            cancel.check()?;
            x = resnet.forward(x, Some(time));
            cancel.check()?;
            x = attend(x, &self.attentions, context, i);
        }
        for upsampler in &self.upsamplers {
            // A side that was odd on the way down must be odd again where the two meet.
            let size = skips.last().map(Tensor::dims).map(|[_, _, h, w]| [h, w]);
            x = upsampler.forward(x, size);
        }
        Ok(x)
    }
}

pack_fields!(DownBlock: resnets, attentions, downsamplers);
pack_fields!(MidBlock: resnets, attentions);
pack_fields!(UpBlock: resnets, attentions, upsamplers);

/// The prompt `[n, tokens, width]` as each of a block's transformers sees it.
pub(super) fn prepare(attentions: &[Transformer2DModel], context: &Tensor<3>) -> StageContext {
    attentions.iter().map(|a| a.prepare(context)).collect()
}

/// `x`, of which `skips` have a copy then.
pub(super) fn keep(mut x: Tensor<4>, skips: &mut Vec<Tensor<4>>) -> Tensor<4> {
    skips.push(duplicate(&mut x));
    x
}

/// `x` through the transformer of number `index`, where there is one.
fn attend(
    x: Tensor<4>,
    attentions: &[Transformer2DModel],
    context: &StageContext,
    index: usize,
) -> Tensor<4> {
    match attentions.get(index).zip(context.get(index)) {
        Some((attention, context)) => attention.forward(x, context),
        None => x,
    }
}

fn resnets(config: &StageConfig, device: &Device) -> Vec<ResnetBlock2D> {
    let resnets = config.resnets.iter();
    resnets.map(|r| ResnetBlock2D::new(*r, device)).collect()
}

fn transformers(config: &StageConfig, device: &Device) -> Vec<Transformer2DModel> {
    let transformers = config.transformers.iter();
    transformers
        .map(|t| Transformer2DModel::new(*t, device))
        .collect()
}
