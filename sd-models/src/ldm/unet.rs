use std::ops::Range;

use super::{Layout, Storage};
use crate::unet::{MidBlockConfig, UNetConfig};

/// Numbering of a U-Net's blocks in a single file, which has one list of them for the way down and
/// one for the way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Numbering {
    /// Every layer has the next number, as the original code builds them.
    #[default]
    Contiguous,
    /// Each resolution has three numbers, however many layers it has: diffusers' export script,
    /// which was written for Stable Diffusion 1, numbers smaller U-Nets so. It also leaves
    /// diffusers' names to transformers where Stable Diffusion 1 has none, at the coarsest
    /// resolution of the way up and at the fourth of the way down.
    ThreePerResolution,
}

/// Layers before the blocks.
pub(super) const TIME: &[(&str, &str)] = &[
    ("conv_in", "input_blocks.0.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
];

/// Layers behind the blocks.
const OUT: &[(&str, &str)] = &[("conv_norm_out", "out.0"), ("conv_out", "out.2")];

/// What a ControlNet has behind the middle block.
pub(super) const MIDDLE: &[(&str, &str)] = &[("controlnet_mid_block", "middle_block_out.0")];

/// SDXL's embedding of the pooled prompt and of sizes and crops.
pub(super) const ADDED: &[(&str, &str)] = &[
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
];

/// Layers of a residual block.
const RESNET: &[(&str, &str)] = &[
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
];

impl Layout {
    /// Table of a U-Net.
    pub fn unet(config: &UNetConfig, numbering: Numbering) -> Self {
        let mut table = Self::new();
        table.rows_in("", "", TIME);
        table.rows_in("", "", OUT);
        if config.text_time.is_some() {
            table.rows_in("", "", ADDED);
        }
        if config.class_labels.is_some() {
            table.row("class_embedding", "label_emb", Storage::Whole);
        }
        if config.time.cond_proj_dim.is_some() {
            // The original code has no such layer; files that hold it call it as diffusers does.
            let name = "time_embedding.cond_proj";
            table.row(name, name, Storage::Whole);
        }
        table.way_down(config, numbering);
        table.middle(config);
        table.way_up(config, numbering);
        table
    }

    pub(super) fn middle(&mut self, config: &UNetConfig) {
        match config.mid {
            MidBlockConfig::None => {}
            MidBlockConfig::Resnet => {
                self.rows_in("mid_block.resnets.0", "middle_block.0", RESNET);
            }
            MidBlockConfig::Attention { .. } => {
                self.rows_in("mid_block.resnets.0", "middle_block.0", RESNET);
                self.transformer("mid_block.attentions.0", "middle_block.1");
                self.rows_in("mid_block.resnets.1", "middle_block.2", RESNET);
            }
        }
    }

    /// A downsampler is a block of its own.
    pub(super) fn way_down(&mut self, config: &UNetConfig, numbering: Numbering) {
        let mut next = 1;
        for (i, block) in config.blocks.iter().enumerate() {
            let ours = format!("down_blocks.{i}");
            let behind = next + block.down_depths.len();
            let transformers = Transformers::new(block.down_attention, numbering, i < 3);
            self.layers(&ours, "input_blocks", next..behind, transformers);
            let downsampler = match numbering {
                Numbering::Contiguous => behind,
                Numbering::ThreePerResolution => 3 * (i + 1),
            };
            if i + 1 < config.blocks.len() {
                let ours = format!("{ours}.downsamplers.0.conv");
                let theirs = format!("input_blocks.{downsampler}.0.op");
                self.row(ours, theirs, Storage::Whole);
            }
            next = downsampler + 1;
        }
    }

    /// An upsampler is the last part of the block before it.
    fn way_up(&mut self, config: &UNetConfig, numbering: Numbering) {
        let mut next = 0;
        // It is listed coarsest first.
        for (i, block) in config.blocks.iter().rev().enumerate() {
            let ours = format!("up_blocks.{i}");
            let behind = next + block.up_depths.len();
            let transformers = Transformers::new(block.up_attention, numbering, i > 0);
            self.layers(&ours, "output_blocks", next..behind, transformers);
            let (last, attends) = match numbering {
                Numbering::Contiguous => (behind - 1, block.up_attention),
                Numbering::ThreePerResolution => (3 * i + 2, i > 0),
            };
            if i + 1 < config.blocks.len() {
                let part = if attends { 2 } else { 1 };
                let ours = format!("{ours}.upsamplers.0.conv");
                let theirs = format!("output_blocks.{last}.{part}.conv");
                self.row(ours, theirs, Storage::Whole);
            }
            next = last + 1;
        }
    }

    /// Residual blocks, each with the transformer behind it, as the blocks `numbers` of the file's
    /// `list`.
    fn layers(
        &mut self,
        block: &str,
        list: &str,
        numbers: Range<usize>,
        transformers: Transformers,
    ) {
        for (j, number) in numbers.enumerate() {
            let theirs = format!("{list}.{number}.0");
            self.rows_in(&format!("{block}.resnets.{j}"), &theirs, RESNET);
            let ours = format!("{block}.attentions.{j}");
            match transformers {
                Transformers::Absent => {}
                Transformers::Renamed => self.transformer(&ours, &format!("{list}.{number}.1")),
                Transformers::Kept => self.transformer(&ours, &ours),
            }
        }
    }

    /// Inside, both layouts have the same names.
    fn transformer(&mut self, diffusers: &str, file: &str) {
        self.row(diffusers, file, Storage::Whole);
    }
}

/// Names of a resolution's transformers in the file.
#[derive(Clone, Copy)]
enum Transformers {
    Absent,
    Renamed,
    /// Diffusers'.
    Kept,
}

impl Transformers {
    /// `expected`: Stable Diffusion 1 has transformers there.
    fn new(present: bool, numbering: Numbering, expected: bool) -> Self {
        match numbering {
            _ if !present => Self::Absent,
            Numbering::ThreePerResolution if !expected => Self::Kept,
            _ => Self::Renamed,
        }
    }
}
