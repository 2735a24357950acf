use burn::module::Module;
use burn::tensor::activation::silu;
use burn::tensor::{Device, Int, Tensor};
use sd_core::{Cancel, Perturbed, WeightBytes};
use sd_kernels::Activation;

use super::blocks::{
    DownBlock, MidBlock, Pass, StageContext, UpBlock, block_span, keep, prepare, way_down,
};
use super::cache::{self, Reuse};
use super::config::UNetConfig;
use super::decoupled::{self, DecoupledAttention};
use super::embedding::TimestepEmbedding;
use super::freeu::FreeU;
use super::perturbed;
use super::residuals::UNetResiduals;
use crate::layers::{Conv2d, Embedding, Epilogue, GroupNorm, pack_fields};
use crate::{LoadOptions, Result, Weights};

/// The network of Stable Diffusion (Rombach et al. 2022, arXiv:2112.10752): a U-Net (Ronneberger
/// et al. 2015, arXiv:1505.04597) of residual blocks and transformers that look at the prompt.
///
/// The picture is halved from block to block on the way down and doubled again on the way up,
/// where each layer also sees what the way down made at its resolution.
///
/// Field names are those of diffusers' `UNet2DConditionModel`, and so of its checkpoints.
#[derive(Module, Debug)]
pub struct UNet2DConditionModel {
    /// From the latent's channels to the first block's.
    conv_in: Conv2d,
    /// Of the timestep's sines and cosines.
    time_embedding: TimestepEmbedding,
    /// Of the pooled prompt and the sizes and crops, in SDXL.
    add_embedding: Option<TimestepEmbedding>,
    /// Of a class label, in networks that are told one.
    class_embedding: Option<Embedding>,
    /// The way down, finest resolution first.
    down_blocks: Vec<DownBlock>,
    /// Between both ways, in most models.
    mid_block: Option<MidBlock>,
    /// The way up, coarsest resolution first.
    up_blocks: Vec<UpBlock>,
    /// Before the last convolution, SiLU behind it.
    conv_norm_out: GroupNorm,
    /// From the first block's channels to the output's.
    conv_out: Conv2d,
    #[module(skip)]
    center_input_sample: bool,
    /// Channels of the first block.
    #[module(skip)]
    finest: usize,
}

/// Embeddings that a network may be told besides latent, timestep and prompt. Given to a network that has no
/// layer for it, it does nothing.
#[derive(Debug, Clone, Default)]
pub struct UNetEmbeddings {
    /// SDXL's pooled prompt with the sines and cosines of sizes and crops, `[n, input width]`.
    pub added: Option<Tensor<2>>,
    /// An LCM's embedded guidance scale, `[n, width]`.
    pub guidance: Option<Tensor<2>>,
    /// Class labels, `[n]`, each below the number of classes.
    pub class_labels: Option<Tensor<1, Int>>,
}

/// Parts that do not change between the steps of a run.
#[derive(Debug, Clone)]
pub struct UNetContext {
    down: Vec<StageContext>,
    mid: StageContext,
    up: Vec<StageContext>,
    /// Sum of what is added to the timestep's embedding, `[n, width]`: SDXL's added embedding, that
    /// of a class label.
    added: Option<Tensor<2>>,
    /// Addition of a guidance-scale embedding to the timestep's sines and cosines, `[n, channels]`.
    guidance: Option<Tensor<2>>,
    /// Factors on the way up.
    freeu: Option<FreeU>,
}

impl UNetContext {
    /// The same with tokens beside the prompt's for `branches` of `n` samples each.
    pub(super) fn beside(
        mut self,
        branches: &[&DecoupledAttention],
        n: usize,
        config: &UNetConfig,
    ) -> Self {
        let stages = self.down.iter_mut().chain(&mut self.up);
        let blocks = stages.chain([&mut self.mid]).flatten().flatten();
        decoupled::attach(blocks, branches, n, config);
        self
    }

    /// The same with perturbed layers, and with factors on the way up.
    pub(super) fn changed(mut self, by: Option<&Perturbed>, freeu: Option<FreeU>) -> Self {
        self.freeu = freeu;
        let Some(by) = by else {
            return self;
        };
        for (list, stages) in [("down_blocks", &mut self.down), ("up_blocks", &mut self.up)] {
            for (i, stage) in stages.iter_mut().enumerate() {
                perturbed::mark(&format!("{list}.{i}"), stage, by);
            }
        }
        perturbed::mark("mid_block", &mut self.mid, by);
        self
    }
}

impl UNet2DConditionModel {
    /// A network whose weights are still to be loaded; until then it takes next to no memory.
    pub fn new(config: &UNetConfig, device: &Device) -> Self {
        let (first, time) = (config.blocks[0].channels, config.time);
        let (down, up) = (config.down_stages(), config.up_stages());
        let padding = config.downsample_padding;
        let kernel = config.conv_in_kernel;
        let added = |c: super::TextTimeConfig| {
            TimestepEmbedding::new(c.input_width, time.width, None, device)
        };
        let cond = time.cond_proj_dim;
        let classes = |classes| Embedding::new(classes, time.width, device);
        Self {
            conv_in: Conv2d::same(config.in_channels, first, kernel, device),
            time_embedding: TimestepEmbedding::new(time.channels, time.width, cond, device),
            add_embedding: config.text_time.map(added),
            class_embedding: config.class_labels.map(classes),
            down_blocks: (down.iter())
                .map(|stage| DownBlock::new(stage, padding, device))
                .collect(),
            mid_block: (config.mid_stage()).map(|stage| MidBlock::new(&stage, device)),
            up_blocks: up.iter().map(|s| UpBlock::new(s, device)).collect(),
            conv_norm_out: GroupNorm::new(config.norm_num_groups, first, config.norm_eps, device),
            conv_out: Conv2d::same(first, config.out_channels, config.conv_out_kernel, device),
            center_input_sample: config.center_input_sample,
            finest: first,
        }
    }

    /// A network with the weights of a file, packed for the kernels where there are kernels: it is
    /// then several times faster, and its weights can no longer be read. Also gives the memory the
    /// weights take.
    ///
    /// # Errors
    /// As [`Weights::load_into`].
    pub fn load(
        config: &UNetConfig,
        weights: &Weights,
        options: &LoadOptions,
    ) -> Result<(Self, WeightBytes)> {
        weights.load_packed(Self::new(config, &options.device), options)
    }

    /// Computes once what the steps of a run share: the keys and values of the prompt
    /// `[n, tokens, width]` in every transformer, and the embeddings besides the timestep's.
    pub fn prepare(&self, prompt: &Tensor<3>, embeddings: UNetEmbeddings) -> UNetContext {
        let UNetEmbeddings {
            added,
            guidance,
            class_labels,
        } = embeddings;
        let (down, up) = (self.down_blocks.iter(), self.up_blocks.iter());
        let cond_proj = self.time_embedding.cond_proj.as_ref();
        let added = (self.add_embedding.as_ref().zip(added)).map(|(layer, x)| layer.forward(x));
        let class = (self.class_embedding.as_ref().zip(class_labels)).map(|(table, labels)| {
            let rows = table.forward(labels.unsqueeze::<2>());
            // A table may stay half where all else is computed in f32.
            rows.squeeze_dim::<2>(0).cast(prompt.dtype())
        });
        UNetContext {
            down: down.map(|b| prepare(&b.attentions, prompt)).collect(),
            mid: (self.mid_block.as_ref())
                .map_or_else(Vec::new, |b| prepare(&b.attentions, prompt)),
            up: up.map(|b| prepare(&b.attentions, prompt)).collect(),
            added: match (class, added) {
                (Some(class), Some(added)) => Some(class + added),
                (class, added) => class.or(added),
            },
            guidance: (cond_proj.zip(guidance)).map(|(layer, x)| layer.forward(x, Epilogue::NONE)),
            freeu: None,
        }
    }

    /// One evaluation: `x` `[n, in channels, h, w]` of any height and width to
    /// `[n, out channels, h, w]`. `time` is what [`embed_time`](Self::embed_time) made.
    ///
    /// # Errors
    /// [`Error::Cancelled`](sd_core::Error::Cancelled) between two layers,
    /// [`Error::Shape`](sd_core::Error::Shape) for residuals that do not fit.
    pub fn forward(
        &self,
        x: Tensor<4>,
        time: &Tensor<2>,
        context: &UNetContext,
        residuals: Option<UNetResiduals>,
        cancel: &Cancel,
    ) -> sd_core::Result<Tensor<4>> {
        self.evaluate(x, time, context, residuals, cancel, &mut Reuse::Nothing)
    }

    /// [`forward`](Self::forward) of which part may be taken from an earlier evaluation.
    pub(super) fn evaluate(
        &self,
        x: Tensor<4>,
        time: &Tensor<2>,
        context: &UNetContext,
        residuals: Option<UNetResiduals>,
        cancel: &Cancel,
        reuse: &mut Reuse,
    ) -> sd_core::Result<Tensor<4>> {
        let x = if self.center_input_sample {
            x * 2.0 - 1.0
        } else {
            x
        };
        let mut pass = Pass::new(time, self.finest, cancel);
        pass.freeu = context.freeu;
        let mut residuals = residuals;
        if let Some(residuals) = &mut residuals {
            pass.added = std::mem::take(&mut residuals.blocks).into();
        }
        let x = keep(self.conv_in.forward(x, Epilogue::NONE), &mut pass.skips);
        let x = match reuse {
            Reuse::Nothing => self.whole(x, context, residuals, &mut pass)?,
            Reuse::Deep { depth, features } => match features {
                Some(features) => {
                    pass.limit = *depth + 1;
                    way_down(&self.down_blocks, x, &context.down, &mut pass)?;
                    if let Some(residuals) = residuals {
                        residuals.add_first(&mut pass.skips)?;
                    }
                    if let Some(skip) = pass.skips.last() {
                        cache::check_size(features, skip)?;
                    }
                    self.up(features.clone(), context, &mut pass)?
                }
                None => {
                    pass.keep_below = Some(*depth);
                    let x = self.whole(x, context, residuals, &mut pass)?;
                    *features = pass.kept.take();
                    x
                }
            },
            Reuse::FirstBlock {
                threshold,
                features,
            } => {
                let before = x.clone();
                pass.limit = 2;
                let x = way_down(&self.down_blocks, x, &context.down, &mut pass)?;
                pass.limit = usize::MAX;
                let (first, change) = (x.clone(), x.clone() - before);
                if let Some(features) = features.iter().flatten().next() {
                    cache::check_size(features, &change)?;
                }
                match features {
                    Some([last, rest]) if cache::is_close(last, &change, *threshold)? => {
                        first + rest.clone()
                    }
                    _ => {
                        let x = self.whole(x, context, residuals, &mut pass)?;
                        *features = Some([change, x.clone() - first]);
                        x
                    }
                }
            }
        };
        cancel.check()?;
        let x = self.conv_norm_out.forward(x, Activation::Silu);
        Ok(self.conv_out.forward(x, Epilogue::NONE))
    }

    /// What is left of the way down, the middle, and the way up.
    fn whole(
        &self,
        x: Tensor<4>,
        context: &UNetContext,
        residuals: Option<UNetResiduals>,
        pass: &mut Pass<'_>,
    ) -> sd_core::Result<Tensor<4>> {
        let mut x = way_down(&self.down_blocks, x, &context.down, pass)?;
        if let Some(block) = &self.mid_block {
            let _span = block_span("mid", 0, &x).entered();
            x = block.forward(x, &context.mid, pass)?;
            x = pass.with_added(x)?;
        }
        if !pass.added.is_empty() {
            let expected = "expected one for each block on the way down, and one for the middle";
            let found = format!("{} too many", pass.added.len());
            return Err(sd_core::Error::invalid(
                "residuals of blocks",
                found,
                expected,
            ));
        }
        if let Some(residuals) = residuals {
            x = residuals.add(&mut pass.skips, x)?;
        }
        self.up(x, context, pass)
    }

    fn up(
        &self,
        mut x: Tensor<4>,
        context: &UNetContext,
        pass: &mut Pass<'_>,
    ) -> sd_core::Result<Tensor<4>> {
        let mut skips: usize = self.up_blocks.iter().map(UpBlock::skips).sum();
        for (index, (block, context)) in self.up_blocks.iter().zip(&context.up).enumerate() {
            let _span = block_span("up", index, &x).entered();
            x = block.forward(x, index, skips, context, pass)?;
            skips = skips.saturating_sub(block.skips());
        }
        Ok(x)
    }

    /// The timestep as all residual blocks see it, `[1, width]` or `[n, width]`: SiLU of its
    /// embedding, as each of them begins with that SiLU. `timestep` are its sines and cosines,
    /// `[1, channels]`.
    pub fn embed_time(&self, timestep: Tensor<2>, context: &UNetContext) -> Tensor<2> {
        let timestep = match &context.guidance {
            Some(guidance) => timestep + guidance.clone(),
            None => timestep,
        };
        let time = self.time_embedding.forward(timestep);
        silu(match &context.added {
            Some(added) => time + added.clone(),
            None => time,
        })
    }
}

pack_fields!(
    UNet2DConditionModel: conv_in, time_embedding, add_embedding, class_embedding, down_blocks,
    mid_block, up_blocks, conv_out
);
