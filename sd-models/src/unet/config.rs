use std::ops::RangeInclusive;

use super::depths::transformer_depths;
use super::per_block::{per_block, sizes_per_block};
use super::supported;
use crate::layers::{Padding, TimeEffect};
use crate::{ConfigFile, Result};

/// No U-Net comes near these; they keep a forged file from asking for absurd sizes.
const CHANNELS: RangeInclusive<usize> = 1..=65_536;
const BLOCKS: RangeInclusive<usize> = 1..=8;
const LAYERS: RangeInclusive<usize> = 1..=16;

/// Contents of a `UNet2DConditionModel`'s `config.json`, checked, with one entry per resolution
/// where the file may give one number for all.
#[derive(Debug, Clone, PartialEq)]
pub struct UNetConfig {
    /// Height and width it was trained at, in latent pixels.
    pub sample_size: [usize; 2],
    /// Channels of the input: 4, or 9 with a mask and a masked picture beside the latent.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// `true` when the input is mapped from `[0, 1]` to `[-1, 1]` first.
    pub center_input_sample: bool,
    /// The timestep's embedding.
    pub time: TimeConfig,
    /// SDXL's further embedding of the pooled prompt and of sizes and crops.
    pub text_time: Option<TextTimeConfig>,
    /// Number of class labels, of which the network is told one: in an upscaler, the noise level of
    /// the small picture.
    pub class_labels: Option<usize>,
    /// Width of the prompt's tokens.
    pub cross_attention_dim: usize,
    /// The resolutions, finest first.
    pub blocks: Vec<BlockConfig>,
    /// The block between the way down and the way up.
    pub mid: MidBlock,
    /// Divisor of the middle block's residual sums.
    pub mid_block_scale_factor: f64,
    /// Groups of every group normalisation.
    pub norm_num_groups: usize,
    /// ε of the group normalisations outside transformers.
    pub norm_eps: f64,
    /// Action of the timestep in residual blocks.
    pub time_effect: TimeEffect,
    /// Padding of the picture where it is halved.
    pub downsample_padding: Padding,
    /// `true` when attention must compute in f32 whatever the precision; here it always does.
    pub upcast_attention: bool,
    /// Kernel of the first convolution.
    pub conv_in_kernel: usize,
    /// Kernel of the last convolution.
    pub conv_out_kernel: usize,
}

/// Embedding of a timestep: the way it becomes a vector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeConfig {
    /// Number of sines and cosines: the first block's channels.
    pub channels: usize,
    /// Width of the embedding made of them.
    pub width: usize,
    /// `true` when the cosines come first.
    pub flip_sin_to_cos: bool,
    /// The frequencies fall from 1 to 10000^(−1 + …) over channels/2 − `freq_shift` steps.
    pub freq_shift: f64,
    /// Width of a guidance-scale embedding beside it (LCM, arXiv:2310.04378).
    pub cond_proj_dim: Option<usize>,
}

/// SDXL's added embedding (Podell et al. 2023, arXiv:2307.01952, section 2.2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextTimeConfig {
    /// Number of sines and cosines for each size or crop.
    pub time_channels: usize,
    /// Width of the pooled prompt and all sines and cosines together.
    pub input_width: usize,
}

/// One resolution on the way down and on the way up.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockConfig {
    /// Channels at this resolution.
    pub channels: usize,
    /// `true` when the residual blocks on the way down have transformers behind them.
    pub down_attention: bool,
    /// The same on the way up.
    pub up_attention: bool,
    /// Attention heads.
    pub heads: usize,
    /// `true` when the transformers look at the prompt only.
    pub only_cross_attention: bool,
    /// Depth of the transformer behind each residual block on the way down: one per residual block.
    pub down_depths: Vec<usize>,
    /// The same on the way up, where there is one more.
    pub up_depths: Vec<usize>,
}

/// The coarsest part of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MidBlock {
    /// Nothing.
    None,
    /// One residual block.
    Resnet,
    /// A transformer of this depth between two residual blocks.
    Attention {
        /// Number of transformer blocks.
        depth: usize,
    },
}

impl UNetConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for numbers out of range and settings that
    /// contradict each other, [`Error::Unsupported`](crate::Error::Unsupported) for settings that
    /// are not implemented, known or unknown.
    pub fn new(file: &ConfigFile) -> Result<Self> {
        supported::check(file)?;
        let blocks = blocks(file)?;
        let (first, last) = (&blocks[0], &blocks[blocks.len() - 1]);
        let groups = file.size("norm_num_groups", Some(32), CHANNELS)?;
        if blocks.iter().any(|b| !b.channels.is_multiple_of(groups)) {
            let expected = "a divisor of all block_out_channels";
            return Err(file.error("norm_num_groups", expected));
        }
        let mid = mid_block(file, last)?;
        let attends = |b: &&BlockConfig| b.down_attention || b.up_attention;
        let mid_attends = matches!(mid, MidBlock::Attention { .. });
        for block in (blocks.iter().filter(attends)).chain(mid_attends.then_some(last)) {
            if !block.channels.is_multiple_of(block.heads) {
                let expected = "numbers of heads that divide block_out_channels";
                return Err(file.error("attention_head_dim", expected));
            }
        }
        let padding = match file.size("downsample_padding", Some(1), 0..=1)? {
            0 => Padding::BottomRight,
            padding => Padding::Even(padding),
        };
        let time_effect = match file.text("resnet_time_scale_shift")?.as_deref() {
            None | Some("default") => TimeEffect::Add,
            Some("scale_shift") => TimeEffect::ScaleShift,
            Some(_) => return Err(file.unsupported("resnet_time_scale_shift")),
        };
        Ok(Self {
            sample_size: file.sides("sample_size", [64, 64], 1..=8192)?,
            in_channels: file.size("in_channels", Some(4), CHANNELS)?,
            out_channels: file.size("out_channels", Some(4), CHANNELS)?,
            center_input_sample: file.flag("center_input_sample", false)?,
            time: time(file, first.channels)?,
            text_time: text_time(file)?,
            class_labels: class_labels(file)?,
            cross_attention_dim: cross_attention_dim(file, blocks.len())?,
            mid,
            mid_block_scale_factor: file.positive("mid_block_scale_factor", 1.0)?,
            norm_num_groups: groups,
            norm_eps: file.positive("norm_eps", 1e-5)?,
            time_effect,
            downsample_padding: padding,
            upcast_attention: file.flag("upcast_attention", false)?,
            conv_in_kernel: kernel(file, "conv_in_kernel")?,
            conv_out_kernel: kernel(file, "conv_out_kernel")?,
            blocks,
        })
    }
}

fn blocks(file: &ConfigFile) -> Result<Vec<BlockConfig>> {
    let sizes = "a list of 1 to 8 whole numbers";
    let channels: Vec<usize> = file
        .get("block_out_channels", sizes)?
        .unwrap_or_else(|| vec![320, 640, 1280, 1280]);
    let count = channels.len();
    if !BLOCKS.contains(&count) || !channels.iter().all(|c| CHANNELS.contains(c)) {
        let expected = "a list of 1 to 8 whole numbers from 1 to 65536";
        return Err(file.error("block_out_channels", expected));
    }
    let down = attention_flags(
        file,
        "down_block_types",
        ["CrossAttnDownBlock2D", "DownBlock2D"],
    )?;
    let up = attention_flags(file, "up_block_types", ["CrossAttnUpBlock2D", "UpBlock2D"])?;
    for (field, list) in [("down_block_types", &down), ("up_block_types", &up)] {
        if list.len() != count {
            let expected = format!("as many as block_out_channels, {count}");
            return Err(file.error(field, &expected));
        }
    }
    let layers = sizes_per_block(file, "layers_per_block", 2, LAYERS, count)?;
    let heads = sizes_per_block(file, "attention_head_dim", 8, CHANNELS, count)?;
    let only_cross = per_block(file, "only_cross_attention", false, count)?;
    let (down_depths, up_depths) = transformer_depths(file, &layers)?;
    let block = |i: usize| BlockConfig {
        channels: channels[i],
        down_attention: down[i],
        // The way up is listed coarsest first.
        up_attention: up[count - 1 - i],
        heads: heads[i],
        only_cross_attention: only_cross[i],
        down_depths: down_depths[i].clone(),
        up_depths: up_depths[i].clone(),
    };
    Ok((0..count).map(block).collect())
}

/// For each block of a list of types whether it is the `[with, without]` attention.
fn attention_flags(
    file: &ConfigFile,
    field: &str,
    [with, without]: [&str; 2],
) -> Result<Vec<bool>> {
    let types: Option<Vec<String>> = file.get(field, "a list of block types")?;
    let Some(types) = types else {
        // The classic four: attention at all resolutions but the coarsest.
        let down = [true, true, true, false];
        let up = [false, true, true, true];
        return Ok(Vec::from(if with.contains("Down") { down } else { up }));
    };
    let flag = |kind: &String| match kind.as_str() {
        kind if kind == with => Ok(true),
        kind if kind == without => Ok(false),
        _ => Err(file.unsupported(field)),
    };
    types.iter().map(flag).collect()
}

fn mid_block(file: &ConfigFile, last: &BlockConfig) -> Result<MidBlock> {
    if file.is_null("mid_block_type") {
        return Ok(MidBlock::None);
    }
    match file.text("mid_block_type")?.as_deref() {
        None | Some("UNetMidBlock2DCrossAttn") => Ok(MidBlock::Attention {
            depth: last.down_depths[0],
        }),
        Some("UNetMidBlock2D") => Ok(MidBlock::Resnet),
        Some(_) => Err(file.unsupported("mid_block_type")),
    }
}

fn time(file: &ConfigFile, channels: usize) -> Result<TimeConfig> {
    let expected = "a number from 0 to below half of the first block's channels";
    let freq_shift = file.get::<f64>("freq_shift", expected)?.unwrap_or(0.0);
    if !(0.0..(channels / 2) as f64).contains(&freq_shift) {
        return Err(file.error("freq_shift", expected));
    }
    let cond = "time_cond_proj_dim";
    let cond_proj_dim = file.has(cond).then(|| file.size(cond, None, CHANNELS));
    Ok(TimeConfig {
        channels,
        width: file.size(
            "time_embedding_dim",
            Some(4 * channels),
            1..=4 * CHANNELS.end(),
        )?,
        flip_sin_to_cos: file.flag("flip_sin_to_cos", true)?,
        freq_shift,
        cond_proj_dim: cond_proj_dim.transpose()?,
    })
}

fn text_time(file: &ConfigFile) -> Result<Option<TextTimeConfig>> {
    match file.text("addition_embed_type")?.as_deref() {
        None => Ok(None),
        Some("text_time") => Ok(Some(TextTimeConfig {
            time_channels: file.size("addition_time_embed_dim", None, 2..=*CHANNELS.end())?,
            input_width: file.size("projection_class_embeddings_input_dim", None, CHANNELS)?,
        })),
        Some(_) => Err(file.unsupported("addition_embed_type")),
    }
}

fn class_labels(file: &ConfigFile) -> Result<Option<usize>> {
    let field = "num_class_embeds";
    let classes = file.has(field).then(|| file.size(field, None, CHANNELS));
    classes.transpose()
}

fn cross_attention_dim(file: &ConfigFile, count: usize) -> Result<usize> {
    let field = "cross_attention_dim";
    let widths = sizes_per_block(file, field, 1280, CHANNELS, count)?;
    if widths.iter().any(|width| *width != widths[0]) {
        return Err(file.error(field, "the same width for all blocks: they see one prompt"));
    }
    Ok(widths[0])
}

fn kernel(file: &ConfigFile, field: &str) -> Result<usize> {
    let kernel = file.size(field, Some(3), 1..=31)?;
    if kernel % 2 == 1 {
        Ok(kernel)
    } else {
        Err(file.error(
            field,
            "an odd number: an even kernel changes the picture's size",
        ))
    }
}
