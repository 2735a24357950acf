//! Memory that an evaluation takes, replayed from the configuration: the maps that the layers make,
//! hold and give back, in the order in which [`model`](super::model) does.

use sd_kernels::{AttentionShape, ConvShape, OutputReplay, Picture, Replayed};

use super::config::UNetConfig;
use super::stage::StageConfig;
use crate::layers::{Padding, ResnetConfig, SCORES, TimeEffect, TransformerConfig};

/// A workload of a U-Net.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UNetWork {
    /// Samples that are evaluated at once: pictures times branches.
    pub samples: usize,
    /// Height and width of the latent.
    pub latent: [usize; 2],
    /// Tokens of the prompt.
    pub tokens: usize,
}

/// A map between layers, and its channels.
struct Map {
    output: Replayed,
    channels: usize,
}

struct Replay<'a> {
    outputs: &'a mut OutputReplay,
    samples: usize,
    tokens: usize,
    /// True where the CPU kernels of this workspace compute, which make no copies of their own.
    kernels: bool,
}

impl UNetConfig {
    /// Replays one evaluation. Gives the numbers that the run holds besides, from its first
    /// evaluation to its last: keys and values of the prompt.
    pub(super) fn replay(
        &self,
        work: UNetWork,
        outputs: &mut OutputReplay,
        kernels: bool,
    ) -> usize {
        let UNetWork {
            samples, tokens, ..
        } = work;
        let mut replay = Replay {
            outputs,
            samples,
            tokens,
            kernels,
        };
        replay.run(self, work.latent);
        self.context(samples * tokens)
    }

    /// Numbers of all tensors of a sample that are kept on the way down and of the middle block's output,
    /// for a latent of that height and width.
    pub(crate) fn kept_numbers(&self, mut size: [usize; 2]) -> usize {
        let map = |channels: usize, [h, w]: [usize; 2]| channels * h * w;
        let mut numbers = map(self.blocks[0].channels, size);
        let mut coarsest = 0;
        for stage in self.down_stages() {
            numbers += stage.resnets.len() * map(stage.channels, size);
            if stage.resample {
                size = self.halved(size);
                numbers += map(stage.channels, size);
            }
            coarsest = map(stage.channels, size);
        }
        numbers + coarsest
    }

    /// Height and width of a picture where it is halved.
    fn halved(&self, size: [usize; 2]) -> [usize; 2] {
        size.map(|side| match self.downsample_padding {
            Padding::Even(_) => side.div_ceil(2),
            Padding::BottomRight => side / 2,
        })
    }

    /// Numbers of the keys and values of `tokens` of the prompt in all transformers.
    fn context(&self, tokens: usize) -> usize {
        let (down, up) = (self.down_stages(), self.up_stages());
        let stages = down.iter().chain(&up);
        let mid = self.mid_stage();
        let all = stages.chain(&mid).flat_map(|stage| &stage.transformers);
        let of = |t: &TransformerConfig| {
            let attentions = if t.only_cross_attention { 2 } else { 1 };
            attentions * 2 * t.layers * t.channels
        };
        tokens * all.map(of).sum::<usize>()
    }
}

impl Replay<'_> {
    fn run(&mut self, config: &UNetConfig, mut size: [usize; 2]) {
        let input = self.map(config.in_channels, size);
        let mut x = self.conv(input, config.blocks[0].channels, size);
        let mut skips = vec![(self.map(x.channels, size), size)];
        for stage in config.down_stages() {
            for (i, resnet) in stage.resnets.iter().enumerate() {
                x = self.resnet(x, resnet, size);
                x = self.attend(x, &stage, i, size);
                skips.push((self.map(x.channels, size), size));
            }
            if stage.resample {
                let half = config.halved(size);
                x = self.layer(x, stage.channels, half);
                size = half;
                skips.push((self.map(x.channels, size), size));
            }
        }
        if let Some(stage) = config.mid_stage() {
            for (i, resnet) in stage.resnets.iter().enumerate() {
                x = self.resnet(x, resnet, size);
                x = self.attend(x, &stage, i, size);
            }
        }
        for stage in config.up_stages() {
            for (i, resnet) in stage.resnets.iter().enumerate() {
                if let Some((skip, _)) = skips.pop() {
                    let both = self.map(x.channels + skip.channels, size);
                    self.give_back(x);
                    self.give_back(skip);
                    x = both;
                }
                x = self.resnet(x, resnet, size);
                x = self.attend(x, &stage, i, size);
            }
            if stage.resample {
                size = skips.last().map_or(size, |(_, size)| *size);
                x = self.conv(x, stage.channels, size);
            }
        }
        x = self.normed_in_place(x, size);
        x = self.conv(x, config.out_channels, size);
        self.give_back(x);
    }

    fn map(&mut self, channels: usize, [height, width]: [usize; 2]) -> Map {
        let numbers = self.samples * channels * height * width;
        Map {
            output: self.outputs.take(numbers),
            channels,
        }
    }

    fn give_back(&mut self, map: Map) {
        self.outputs.recycle(map.output);
    }

    /// A layer that makes one map of another.
    fn layer(&mut self, x: Map, channels: usize, size: [usize; 2]) -> Map {
        let made = self.map(channels, size);
        self.give_back(x);
        made
    }

    /// A 3×3 convolution to a map of `size`.
    fn conv(&mut self, x: Map, channels: usize, [height, width]: [usize; 2]) -> Map {
        let picture = Picture {
            n: self.samples,
            height,
            width,
        };
        self.outputs
            .convolve(ConvShape::same(x.channels, channels, 3), picture);
        self.layer(x, channels, [height, width])
    }

    /// A map for a normalised copy. Burn's operations make two of their own on the way.
    fn normed(&mut self, x: &Map, size: [usize; 2]) -> Map {
        let made = self.map(x.channels, size);
        if !self.kernels {
            let copies = [(); 2].map(|()| self.map(x.channels, size));
            copies.into_iter().for_each(|copy| self.give_back(copy));
        }
        made
    }

    fn normed_in_place(&mut self, x: Map, size: [usize; 2]) -> Map {
        if self.kernels {
            return x;
        }
        let made = self.normed(&x, size);
        self.give_back(x);
        made
    }

    fn resnet(&mut self, x: Map, config: &ResnetConfig, size: [usize; 2]) -> Map {
        let normed = self.normed(&x, size);
        let hidden = self.conv(normed, config.outputs, size);
        let mut hidden = self.normed_in_place(hidden, size);
        if let Some((_, TimeEffect::ScaleShift)) = config.time {
            hidden = self.layer(hidden, config.outputs, size);
        }
        let shortcut = match config.inputs == config.outputs {
            true => x,
            false => self.layer(x, config.outputs, size),
        };
        let sum = self.conv(hidden, config.outputs, size);
        self.give_back(shortcut);
        sum
    }

    fn attend(&mut self, x: Map, stage: &StageConfig, index: usize, size: [usize; 2]) -> Map {
        match stage.transformers.get(index) {
            Some(config) => self.transformer(x, config, size),
            None => x,
        }
    }

    fn transformer(&mut self, x: Map, config: &TransformerConfig, size: [usize; 2]) -> Map {
        let normed = self.normed(&x, size);
        let mut tokens = self.layer(normed, config.channels, size);
        for _ in 0..config.layers {
            let own = !config.only_cross_attention;
            tokens = self.attention(tokens, config.heads, own, size);
            tokens = self.attention(tokens, config.heads, false, size);
            let normed = self.normed(&tokens, size);
            let inner = 4 * config.channels;
            if !self.kernels {
                let halves = self.map(2 * inner, size);
                self.give_back(halves);
            }
            let hidden = self.layer(normed, inner, size);
            let sum = self.layer(hidden, config.channels, size);
            self.give_back(tokens);
            tokens = sum;
        }
        let made = self.layer(tokens, config.channels, size);
        self.give_back(x);
        made
    }

    /// `own`: keys and values are those of the picture's own tokens, else the prompt's, which are
    /// there.
    fn attention(&mut self, x: Map, heads: usize, own: bool, size: [usize; 2]) -> Map {
        let channels = x.channels;
        let normed = self.normed(&x, size);
        let keys = own.then(|| [(); 2].map(|()| self.map(channels, size)));
        let query = self.layer(normed, channels, size);
        let queries = size[0] * size[1];
        let keys_of = if own { queries } else { self.tokens };
        let head = channels / heads;
        let shape = AttentionShape::new(self.samples, heads, head, queries, keys_of);
        self.outputs.attend(&shape);
        if !self.kernels {
            let scores = self.scores(heads, own, size);
            self.outputs.recycle(scores);
        }
        let gathered = self.layer(query, channels, size);
        for map in keys.into_iter().flatten() {
            self.give_back(map);
        }
        let made = self.layer(gathered, channels, size);
        self.give_back(x);
        made
    }

    /// Scores of queries, which are as many as [`SCORES`] allows at a time, and their exponentials.
    fn scores(&mut self, heads: usize, own: bool, [height, width]: [usize; 2]) -> Replayed {
        let queries = height * width;
        let keys = if own { queries } else { self.tokens };
        let all = self.samples.saturating_mul(heads).saturating_mul(queries);
        let scores = all.saturating_mul(keys).min(SCORES.max(keys));
        self.outputs.take(2 * scores)
    }
}
