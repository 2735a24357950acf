use super::config::{MidBlock, UNetConfig};
use crate::layers::{ResnetConfig, TransformerConfig};

/// The layers of one block: residual blocks, and the transformers behind them.
#[derive(Debug, Clone)]
pub(crate) struct StageConfig {
    pub(crate) channels: usize,
    pub(crate) resnets: Vec<ResnetConfig>,
    pub(super) transformers: Vec<TransformerConfig>,
    /// `true` when the next block is at another resolution.
    pub(crate) resample: bool,
}

impl UNetConfig {
    /// The blocks on the way down, finest first.
    pub(crate) fn down_stages(&self) -> Vec<StageConfig> {
        let last = self.blocks.len() - 1;
        let stage = |i: usize| {
            let block = &self.blocks[i];
            let before = self.blocks[i.saturating_sub(1)].channels;
            let resnet = |layer| match layer {
                0 => self.resnet(before, block.channels),
                _ => self.resnet(block.channels, block.channels),
            };
            let depths = block.down_attention.then_some(&block.down_depths);
            StageConfig {
                channels: block.channels,
                resnets: (0..block.down_depths.len()).map(resnet).collect(),
                transformers: self.transformers(i, depths),
                resample: i < last,
            }
        };
        (0..=last).map(stage).collect()
    }

    /// The middle block, if there is one.
    pub(crate) fn mid_stage(&self) -> Option<StageConfig> {
        let last = self.blocks.len() - 1;
        let channels = self.blocks[last].channels;
        let resnet = ResnetConfig {
            output_scale: self.mid_block_scale_factor,
            ..self.resnet(channels, channels)
        };
        let (resnets, depth) = match self.mid {
            MidBlock::None => return None,
            MidBlock::Resnet => (vec![resnet], None),
            MidBlock::Attention { depth } => (vec![resnet; 2], Some(depth)),
        };
        let transformers = depth.map(|depth| TransformerConfig {
            only_cross_attention: false,
            ..self.transformer(last, depth)
        });
        Some(StageConfig {
            channels,
            resnets,
            transformers: transformers.into_iter().collect(),
            resample: false,
        })
    }

    /// The blocks on the way up, coarsest first.
    pub(super) fn up_stages(&self) -> Vec<StageConfig> {
        let last = self.blocks.len() - 1;
        let stage = |i: usize| {
            let block = &self.blocks[i];
            let layers = block.up_depths.len();
            // What comes in: the coarser block's output, and the skips of the way down, the last
            // of which is from before this resolution's first residual block.
            let coarser = self.blocks[(i + 1).min(last)].channels;
            let finer = self.blocks[i.saturating_sub(1)].channels;
            let resnet = |layer| {
                let through = if layer == 0 { coarser } else { block.channels };
                let skip = if layer == layers - 1 {
                    finer
                } else {
                    block.channels
                };
                self.resnet(through + skip, block.channels)
            };
            let depths = block.up_attention.then_some(&block.up_depths);
            StageConfig {
                channels: block.channels,
                resnets: (0..layers).map(resnet).collect(),
                transformers: self.transformers(i, depths),
                resample: i > 0,
            }
        };
        (0..=last).rev().map(stage).collect()
    }

    fn resnet(&self, inputs: usize, outputs: usize) -> ResnetConfig {
        ResnetConfig {
            inputs,
            outputs,
            time: Some((self.time.width, self.time_effect)),
            groups: self.norm_num_groups,
            epsilon: self.norm_eps,
            output_scale: 1.0,
        }
    }

    fn transformers(&self, block: usize, depths: Option<&Vec<usize>>) -> Vec<TransformerConfig> {
        let depths = depths.into_iter().flatten();
        depths
            .map(|&depth| self.transformer(block, depth))
            .collect()
    }

    fn transformer(&self, block: usize, layers: usize) -> TransformerConfig {
        let block = &self.blocks[block];
        TransformerConfig {
            channels: block.channels,
            context_width: self.cross_attention_dim,
            layers,
            heads: block.heads,
            groups: self.norm_num_groups,
            only_cross_attention: block.only_cross_attention,
        }
    }
}
