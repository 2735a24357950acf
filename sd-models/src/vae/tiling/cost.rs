//! The layers of the autoencoder as a planner sees them: which pictures they read and write.

use super::Work;
use crate::vae::VaeConfig;

/// A picture between two layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Map {
    /// Its resolution is the latent's times 2^level.
    pub(super) level: usize,
    pub(super) channels: usize,
}

/// One layer that reads a picture and writes one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Conv(ConvStep),
    /// All pixels attend to each other.
    Attention(Map),
}

/// A convolution.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConvStep {
    pub(super) from: Map,
    pub(super) to: Map,
    /// Whether a normalisation comes before it.
    pub(super) normed: bool,
    /// Whether `from` is needed again.
    pub(super) keeps: bool,
    /// Channels of the picture that is added to the result, and is then gone.
    pub(super) aside: Option<usize>,
}

/// The layers in order.
pub(super) fn steps(config: &VaeConfig, work: Work) -> Vec<Step> {
    let mut steps = Vec::new();
    let channels = &config.block_out_channels;
    let (levels, coarsest) = (channels.len(), channels[channels.len() - 1]);
    let resnets = |steps: &mut Vec<Step>, level: usize, io: [usize; 2], count: usize| {
        for i in 0..count {
            let map = |channels| Map { level, channels };
            let (from, to) = (map(if i == 0 { io[0] } else { io[1] }), map(io[1]));
            steps.push(Step::Conv(ConvStep {
                from,
                to,
                normed: true,
                keeps: true,
                aside: None,
            }));
            steps.push(Step::Conv(ConvStep {
                from: to,
                to,
                normed: true,
                keeps: false,
                aside: Some(from.channels),
            }));
        }
    };
    let conv = |[from, from_level]: [usize; 2], [to, to_level]: [usize; 2], normed| {
        let map = |channels, level| Map { level, channels };
        Step::Conv(ConvStep {
            from: map(from, from_level),
            to: map(to, to_level),
            normed,
            keeps: false,
            aside: None,
        })
    };
    let mid = |steps: &mut Vec<Step>| {
        resnets(steps, 0, [coarsest; 2], 1);
        if config.mid_block_add_attention {
            steps.push(Step::Attention(Map {
                level: 0,
                channels: coarsest,
            }));
        }
        resnets(steps, 0, [coarsest; 2], 1);
    };
    match work {
        Work::Decode => {
            steps.push(conv([config.latent_channels, 0], [coarsest, 0], false));
            mid(&mut steps);
            let mut before = coarsest;
            for (level, &channels) in channels.iter().rev().enumerate() {
                let count = config.layers_per_block + 1;
                resnets(&mut steps, level, [before, channels], count);
                if level + 1 < levels {
                    steps.push(conv([channels, level], [channels, level + 1], false));
                }
                before = channels;
            }
            let finest = levels - 1;
            steps.push(conv([before, finest], [config.out_channels, finest], true));
        }
        Work::Encode => {
            let mut before = channels[0];
            let finest = levels - 1;
            steps.push(conv([config.in_channels, finest], [before, finest], false));
            for (level, &channels) in (0..levels).rev().zip(channels) {
                let count = config.layers_per_block;
                resnets(&mut steps, level, [before, channels], count);
                if level > 0 {
                    steps.push(conv([channels, level], [channels, level - 1], false));
                }
                before = channels;
            }
            mid(&mut steps);
            steps.push(conv([coarsest, 0], [2 * config.latent_channels, 0], true));
        }
    }
    steps
}
