use burn::module::{Module, Param};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor};
use sd_core::{Cancel, Result};

use super::ControlNetConfig;
use super::hint::Hint;
use super::union::ResidualAttentionBlock;
use crate::layers::{Conv2d, Epilogue, Linear, pack_fields, parameter};
use crate::unet::{
    DownBlock, MidBlock, Pass, StageContext, TimestepEmbedding, UNetResiduals, keep, prepare,
    way_down,
};

/// A U-Net's way down and middle with the embedding of a picture before them, and a convolution behind
/// each tensor that the U-Net keeps.
///
/// Field names are those of diffusers' `ControlNetModel` and `ControlNetUnionModel`, misspelling
/// included, and so of their checkpoints.
#[derive(Module, Debug)]
pub struct ControlNetModel {
    conv_in: Conv2d,
    /// Of the timestep's sines and cosines.
    time_embedding: TimestepEmbedding,
    /// Of the pooled prompt and the sizes and crops, in SDXL's.
    add_embedding: Option<TimestepEmbedding>,
    controlnet_cond_embedding: Hint,
    down_blocks: Vec<DownBlock>,
    mid_block: Option<MidBlock>,
    /// One for each tensor that is kept, the first convolution's first.
    controlnet_down_blocks: Vec<Conv2d>,
    controlnet_mid_block: Conv2d,
    /// Of one of several kinds of pictures: a vector for each, `[kinds, channels]`.
    task_embedding: Option<Param<Tensor<2>>>,
    transformer_layes: Vec<ResidualAttentionBlock>,
    spatial_ch_projs: Option<Linear>,
    /// Of the kinds' sines and cosines.
    control_add_embedding: Option<TimestepEmbedding>,
    /// Channels of the first block.
    #[module(skip)]
    finest: usize,
}

/// Parts of an evaluation that do not change between the steps of a run.
#[derive(Debug, Clone)]
pub struct ControlNetContext {
    down: Vec<StageContext>,
    mid: StageContext,
    /// What is added to the timestep's embedding, `[1 or n, width]`.
    added: Option<Tensor<2>>,
}

impl ControlNetModel {
    /// A network whose weights are still to be loaded; until then it takes next to no memory.
    pub fn new(config: &ControlNetConfig, device: &Device) -> Self {
        let unet = &config.unet;
        let (first, time) = (unet.blocks[0].channels, unet.time);
        let padding = unet.downsample_padding;
        let down = unet.down_stages();
        let behind = |channels| Conv2d::same(channels, channels, 1, device);
        let mut kept = vec![first];
        for stage in &down {
            let halved = usize::from(stage.resample);
            kept.resize(kept.len() + stage.resnets.len() + halved, stage.channels);
        }
        let coarsest = down.last().map_or(first, |stage| stage.channels);
        let union = config.union;
        Self {
            conv_in: Conv2d::same(unet.in_channels, first, unet.conv_in_kernel, device),
            time_embedding: TimestepEmbedding::new(time.channels, time.width, None, device),
            add_embedding: unet
                .text_time
                .map(|c| TimestepEmbedding::new(c.input_width, time.width, None, device)),
            controlnet_cond_embedding: Hint::new(config, device),
            down_blocks: (down.iter())
                .map(|stage| DownBlock::new(stage, padding, device))
                .collect(),
            mid_block: (unet.mid_stage()).map(|stage| MidBlock::new(&stage, device)),
            controlnet_down_blocks: kept.into_iter().map(behind).collect(),
            controlnet_mid_block: behind(coarsest),
            task_embedding: union.map(|u| parameter([u.kinds, u.width], device)),
            transformer_layes: union.map_or_else(Vec::new, |u| {
                let layer = |_| ResidualAttentionBlock::new(u, device);
                (0..u.layers).map(layer).collect()
            }),
            spatial_ch_projs: union.map(|u| Linear::new(u.width, first, true, device)),
            control_add_embedding: union.map(|u| {
                TimestepEmbedding::new(u.kinds * u.time_channels, time.width, None, device)
            }),
            finest: first,
        }
    }

    /// The picture `[n, c, h, w]` as it is added to the latent behind the first convolution; `kind`
    /// is the number of its kind, for a network of several.
    pub fn embed_picture(&self, picture: Tensor<4>, kind: Option<usize>) -> Tensor<4> {
        let hint = self.controlnet_cond_embedding.forward(picture);
        let (Some(tasks), Some(project), Some(kind)) =
            (&self.task_embedding, &self.spatial_ch_projs, kind)
        else {
            return hint;
        };
        let [n, channels, ..] = hint.dims();
        let mean = hint.clone().mean_dim(3).mean_dim(2).reshape([n, channels]);
        let task = tasks.val().cast(mean.dtype()).narrow(0, kind, 1);
        let token =
            (self.transformer_layes.iter()).fold(mean + task, |token, layer| layer.forward(token));
        let shift = project.forward(token, Epilogue::NONE);
        hint + shift.reshape([n, channels, 1, 1])
    }

    /// Computes once what the steps of a run share: the keys and values of the prompt
    /// `[n, tokens, width]`, SDXL's pooled prompt with the sines and cosines of sizes and crops
    /// `[n, input width]`, and the kinds' sines and cosines `[1, width]`.
    pub fn prepare(
        &self,
        prompt: &Tensor<3>,
        added: Option<Tensor<2>>,
        kinds: Option<Tensor<2>>,
    ) -> ControlNetContext {
        let embedded = |layer: &Option<TimestepEmbedding>, x: Option<Tensor<2>>| {
            layer.as_ref().zip(x).map(|(layer, x)| layer.forward(x))
        };
        let added = embedded(&self.add_embedding, added);
        let kinds = embedded(&self.control_add_embedding, kinds);
        ControlNetContext {
            down: (self.down_blocks.iter())
                .map(|block| prepare(&block.attentions, prompt))
                .collect(),
            mid: (self.mid_block.as_ref())
                .map_or_else(Vec::new, |block| prepare(&block.attentions, prompt)),
            added: match (added, kinds) {
                (Some(added), Some(kinds)) => Some(added + kinds),
                (added, kinds) => added.or(kinds),
            },
        }
    }

    /// One evaluation: the additions for the latent `x` `[n, c, h, w]`. `timestep` are its sines and
    /// cosines, `[1, channels]`, `hint` `[1 or n, channels, h, w]` is what
    /// [`embed_picture`](Self::embed_picture) made.
    ///
    /// # Errors
    /// [`Error::Cancelled`](sd_core::Error::Cancelled) between two layers.
    pub fn forward(
        &self,
        x: Tensor<4>,
        timestep: Tensor<2>,
        hint: Tensor<4>,
        context: &ControlNetContext,
        cancel: &Cancel,
    ) -> Result<UNetResiduals> {
        let time = self.time_embedding.forward(timestep);
        let time = silu(match &context.added {
            Some(added) => time + added.clone(),
            None => time,
        });
        let mut pass = Pass::new(&time, self.finest, cancel);
        let x = self.conv_in.forward(x, Epilogue::NONE) + hint;
        let x = keep(x, &mut pass.skips);
        let mut x = way_down(&self.down_blocks, x, &context.down, &mut pass)?;
        if let Some(block) = &self.mid_block {
            x = block.forward(x, &context.mid, &pass)?;
        }
        cancel.check()?;
        let skips = pass.skips.into_iter().zip(&self.controlnet_down_blocks);
        Ok(UNetResiduals {
            skips: (skips.map(|(x, layer)| layer.forward(x, Epilogue::NONE))).collect(),
            mid: Some(self.controlnet_mid_block.forward(x, Epilogue::NONE)),
            blocks: Vec::new(),
        })
    }
}

pack_fields!(
    ControlNetModel: conv_in, time_embedding, add_embedding, controlnet_cond_embedding,
    down_blocks, mid_block, controlnet_down_blocks, controlnet_mid_block, transformer_layes,
    spatial_ch_projs, control_add_embedding
);
