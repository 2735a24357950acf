use std::collections::VecDeque;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use sd_core::{Cancel, Result};

use super::freeu::FreeU;
use super::residuals::sum;
use super::stage::StageConfig;
use crate::layers::{
    BlockContext, Downsample2D, Padding, ResnetBlock2D, Transformer2DModel, Upsample2D,
    concat_channels, duplicate, pack_fields,
};

/// The prompt as each transformer of a block sees it.
pub(crate) type StageContext = Vec<Vec<BlockContext>>;

/// One evaluation on its way through the blocks.
pub(crate) struct Pass<'a> {
    pub(super) time: &'a Tensor<2>,
    pub(super) cancel: &'a Cancel,
    /// What was kept on the way down, and is not yet taken on the way up.
    pub(crate) skips: Vec<Tensor<4>>,
    /// What is still to be added to what the blocks on the way down make, in their order.
    pub(super) added: VecDeque<Tensor<4>>,
    /// Number of skips with which the way down ends.
    pub(super) limit: usize,
    /// Number of the skip before whose layer on the way up what comes from below is kept.
    pub(super) keep_below: Option<usize>,
    pub(super) kept: Option<Tensor<4>>,
    pub(super) freeu: Option<FreeU>,
    /// Channels of the finest block.
    pub(super) finest: usize,
}

impl<'a> Pass<'a> {
    /// An evaluation of all blocks, of which the finest has `finest` channels.
    pub(crate) fn new(time: &'a Tensor<2>, finest: usize, cancel: &'a Cancel) -> Self {
        Self {
            time,
            cancel,
            skips: Vec::new(),
            added: VecDeque::new(),
            limit: usize::MAX,
            keep_below: None,
            kept: None,
            freeu: None,
            finest,
        }
    }

    /// `x` with what is to be added to the output of the block it is of.
    pub(super) fn with_added(&mut self, x: Tensor<4>) -> Result<Tensor<4>> {
        match self.added.pop_front() {
            Some(residual) => sum("a residual of a block", x, residual),
            None => Ok(x),
        }
    }

    /// `true` when the layer on the way down that makes the skip of number `skip` is next.
    fn is_next(&self, skip: usize) -> bool {
        self.skips.len() == skip && skip < self.limit
    }

    /// `x` and the skip of number `skip`, which is next, for a layer of the up block `block`.
    fn joined(&mut self, block: usize, skip: usize, mut x: Tensor<4>) -> Tensor<4> {
        if self.keep_below == Some(skip) {
            self.kept = Some(duplicate(&mut x));
        }
        let Some(mut kept) = self.skips.pop() else {
            return x;
        };
        if let Some(freeu) = &self.freeu {
            (x, kept) = freeu.apply(block, self.finest, x, kept);
        }
        concat_channels(x, kept)
    }
}

/// One resolution on the way down: residual blocks, each with a transformer behind it in a
/// `CrossAttnDownBlock2D`, then a halving.
#[derive(Module, Debug)]
pub(crate) struct DownBlock {
    /// The residual blocks in order.
    resnets: Vec<ResnetBlock2D>,
    /// One for each residual block, or none (`DownBlock2D`).
    pub(crate) attentions: Vec<Transformer2DModel>,
    /// One, or none at the coarsest resolution.
    downsamplers: Vec<Downsample2D>,
}

impl DownBlock {
    pub(crate) fn new(config: &StageConfig, padding: Padding, device: &Device) -> Self {
        let downsampler = || Downsample2D::new(config.channels, padding, device);
        Self {
            resnets: resnets(config, device),
            attentions: transformers(config, device),
            downsamplers: config.resample.then(downsampler).into_iter().collect(),
        }
    }

    /// `x` through the layers that are next, whose first makes the skip of number `first`; each
    /// layer's output is kept for the way up.
    pub(crate) fn forward(
        &self,
        mut x: Tensor<4>,
        first: usize,
        context: &StageContext,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor<4>> {
        let attends = !self.attentions.is_empty();
        for (i, resnet) in self.resnets.iter().enumerate() {
            if pass.is_next(first + i) {
                pass.cancel.check()?;
                x = resnet.forward(x, Some(pass.time));
                pass.cancel.check()?;
                x = attend(x, &self.attentions, context, i);
                let is_last = i + 1 == self.resnets.len();
                if is_last && (attends || self.downsamplers.is_empty()) {
                    x = pass.with_added(x)?;
                }
                x = keep(x, &mut pass.skips);
            }
        }
        for (i, downsampler) in self.downsamplers.iter().enumerate() {
            if pass.is_next(first + self.resnets.len() + i) {
                x = downsampler.forward(x);
                if !attends {
                    x = pass.with_added(x)?;
                }
                x = keep(x, &mut pass.skips);
            }
        }
        Ok(x)
    }

    /// Number of skips that it makes.
    pub(crate) fn skips(&self) -> usize {
        self.resnets.len() + self.downsamplers.len()
    }
}

/// The coarsest resolution once more: a residual block, then transformers with a residual block
/// behind each.
#[derive(Module, Debug)]
pub(crate) struct MidBlock {
    /// One more than there are transformers.
    resnets: Vec<ResnetBlock2D>,
    /// One (`UNetMidBlock2DCrossAttn`) or none (`UNetMidBlock2D`).
    pub(crate) attentions: Vec<Transformer2DModel>,
}

impl MidBlock {
    pub(crate) fn new(config: &StageConfig, device: &Device) -> Self {
        Self {
            resnets: resnets(config, device),
            attentions: transformers(config, device),
        }
    }

    pub(crate) fn forward(
        &self,
        mut x: Tensor<4>,
        context: &StageContext,
        pass: &Pass<'_>,
    ) -> Result<Tensor<4>> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            pass.cancel.check()?;
            x = resnet.forward(x, Some(pass.time));
            pass.cancel.check()?;
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
    pub(crate) attentions: Vec<Transformer2DModel>,
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

    /// `x` through the layers, as the block of number `block` on the way up. Each takes a skip, the
    /// last kept first, of which there are `skips` in a whole evaluation; without its skip a layer is
    /// left out.
    pub(super) fn forward(
        &self,
        mut x: Tensor<4>,
        block: usize,
        skips: usize,
        context: &StageContext,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor<4>> {
        let mut done = false;
        for (i, resnet) in self.resnets.iter().enumerate() {
            let skip = skips.saturating_sub(i + 1);
            if pass.skips.len() != skip + 1 {
                continue;
            }
            x = pass.joined(block, skip, x);
            pass.cancel.check()?;
            x = resnet.forward(x, Some(pass.time));
            pass.cancel.check()?;
            x = attend(x, &self.attentions, context, i);
            done = true;
        }
        for upsampler in self.upsamplers.iter().filter(|_| done) {
            // A side that was odd on the way down must be odd again where the two meet.
            let size = pass.skips.last().map(Tensor::dims);
            x = upsampler.forward(x, size.map(|[_, _, h, w]| [h, w]));
        }
        Ok(x)
    }

    /// Number of skips that it takes.
    pub(super) fn skips(&self) -> usize {
        self.resnets.len()
    }
}

pack_fields!(DownBlock: resnets, attentions, downsamplers);
pack_fields!(MidBlock: resnets, attentions);
pack_fields!(UpBlock: resnets, attentions, upsamplers);

/// `x` through what is left of the way down.
pub(crate) fn way_down(
    blocks: &[DownBlock],
    mut x: Tensor<4>,
    context: &[StageContext],
    pass: &mut Pass<'_>,
) -> Result<Tensor<4>> {
    let mut first = 1;
    for (index, (block, context)) in blocks.iter().zip(context).enumerate() {
        let _span = block_span("down", index, &x).entered();
        x = block.forward(x, first, context, pass)?;
        first += block.skips();
    }
    Ok(x)
}

/// One block's time and what it works on, for who listens to that level.
pub(super) fn block_span(way: &'static str, index: usize, x: &Tensor<4>) -> tracing::Span {
    tracing::trace_span!("block", way, index, shape = ?x.dims(), device = ?x.device())
}

/// The prompt `[n, tokens, width]` as each of a block's transformers sees it.
pub(crate) fn prepare(attentions: &[Transformer2DModel], context: &Tensor<3>) -> StageContext {
    attentions.iter().map(|a| a.prepare(context)).collect()
}

/// `x`, of which `skips` have a copy then.
pub(crate) fn keep(mut x: Tensor<4>, skips: &mut Vec<Tensor<4>>) -> Tensor<4> {
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
