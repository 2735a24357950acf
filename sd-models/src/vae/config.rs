use std::ops::RangeInclusive;

use crate::{ConfigFile, Result};

/// No autoencoder comes near it; it keeps a forged file from asking for absurd sizes.
const CHANNELS: RangeInclusive<usize> = 1..=65_536;

/// Settings that are read, and those that only matter in training.
const KNOWN: &[&str] = &[
    "act_fn",
    "block_out_channels",
    "down_block_types",
    "force_upcast",
    "in_channels",
    "latent_channels",
    "latents_mean",
    "latents_std",
    "layers_per_block",
    "mid_block_add_attention",
    "norm_num_groups",
    "out_channels",
    "sample_size",
    "scaling_factor",
    "shift_factor",
    "up_block_types",
    "use_post_quant_conv",
    "use_quant_conv",
];

/// Settings that are known and not implemented.
const FIXED: &[(&str, &[&str])] = &[("quantization_config", &[])];

/// The `config.json` of an `AutoencoderKL`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct VaeConfig {
    /// Channels of a picture that goes in: 3.
    pub in_channels: usize,
    /// Channels of a picture that comes out: 3.
    pub out_channels: usize,
    /// Channels of a latent: 4.
    pub latent_channels: usize,
    /// Channels at each resolution, the picture's first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks at each resolution of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of every group normalisation.
    pub norm_num_groups: usize,
    /// Latents are multiplied by this, to have about unit variance.
    pub scaling_factor: f64,
    /// The number taken off latents before that.
    pub shift_factor: f64,
    /// In place of it a mean for each channel, and a deviation that it is divided by.
    pub latents: Option<LatentStatistics>,
    /// A 1×1 convolution behind the encoder.
    pub use_quant_conv: bool,
    /// A 1×1 convolution before the decoder.
    pub use_post_quant_conv: bool,
    /// Attention of pixels to each other at the coarsest resolution.
    pub mid_block_add_attention: bool,
    /// Activations that overflow in f16, so that only f32 will do.
    pub force_upcast: bool,
    /// Side of the pictures it was trained on, in pixels; diffusers' tiles have it. Of a height and
    /// a width the height, as there.
    pub sample_size: usize,
}

/// Statistics of a network's latents, channel by channel (Playground 2.5; Li et al. 2024,
/// arXiv:2402.17245).
#[derive(Debug, Clone, PartialEq)]
pub struct LatentStatistics {
    /// Mean of each channel.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel, above 0.
    pub std: Vec<f64>,
}

impl VaeConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for numbers out of range and settings that
    /// contradict each other, [`Error::Unsupported`](crate::Error::Unsupported) for settings that
    /// are not implemented, known or unknown.
    pub fn new(file: &ConfigFile) -> Result<Self> {
        file.refuse_others(KNOWN, FIXED)?;
        match file.text("_class_name")?.as_deref() {
            None | Some("AutoencoderKL") => {}
            Some(_) => return Err(file.unsupported("_class_name")),
        }
        match file.text("act_fn")?.as_deref() {
            None | Some("silu" | "swish") => {}
            Some(_) => return Err(file.unsupported("act_fn")),
        }
        let block_out_channels = block_out_channels(file)?;
        let blocks = block_out_channels.len();
        block_types(file, "down_block_types", "DownEncoderBlock2D", blocks)?;
        block_types(file, "up_block_types", "UpDecoderBlock2D", blocks)?;
        let groups = file.size("norm_num_groups", Some(32), CHANNELS)?;
        if block_out_channels.iter().any(|c| !c.is_multiple_of(groups)) {
            let expected = "a divisor of all block_out_channels";
            return Err(file.error("norm_num_groups", expected));
        }
        let shift_factor = file.get::<f64>("shift_factor", "a number")?.unwrap_or(0.0);
        let latent_channels = file.size("latent_channels", Some(4), CHANNELS)?;
        let latents = latent_statistics(file, latent_channels)?;
        if latents.is_some() && shift_factor != 0.0 {
            let expected = "0 or absent beside latents_mean, which says the same otherwise";
            return Err(file.error("shift_factor", expected));
        }
        Ok(Self {
            in_channels: file.size("in_channels", Some(3), CHANNELS)?,
            out_channels: file.size("out_channels", Some(3), CHANNELS)?,
            latent_channels,
            latents,
            block_out_channels,
            layers_per_block: file.size("layers_per_block", Some(1), 1..=16)?,
            norm_num_groups: groups,
            scaling_factor: file.positive("scaling_factor", 0.18215)?,
            shift_factor,
            use_quant_conv: file.flag("use_quant_conv", true)?,
            use_post_quant_conv: file.flag("use_post_quant_conv", true)?,
            mid_block_add_attention: file.flag("mid_block_add_attention", true)?,
            force_upcast: file.flag("force_upcast", true)?,
            sample_size: file.sides("sample_size", [32, 32], 1..=16_384)?[0],
        })
    }

    /// Pixels per latent pixel in each direction.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

fn block_out_channels(file: &ConfigFile) -> Result<Vec<usize>> {
    let (field, expected) = (
        "block_out_channels",
        "a list of 1 to 8 whole numbers from 1 to 65536",
    );
    let channels: Vec<usize> = file.get(field, expected)?.unwrap_or_else(|| vec![64]);
    if (1..=8).contains(&channels.len()) && channels.iter().all(|c| CHANNELS.contains(c)) {
        Ok(channels)
    } else {
        Err(file.error(field, expected))
    }
}

/// Both lists or none.
fn latent_statistics(file: &ConfigFile, channels: usize) -> Result<Option<LatentStatistics>> {
    let list = |field: &str, expected: &str, is_good: fn(&f64) -> bool| {
        let expected = format!("{channels} {expected}, one for each of latent_channels");
        match file.get::<Vec<f64>>(field, &expected)? {
            Some(list) if list.len() == channels && list.iter().all(is_good) => Ok(list),
            _ => Err(file.error(field, &expected)),
        }
    };
    let (mean, std) = ("latents_mean", "latents_std");
    if !file.has(mean) && !file.has(std) {
        return Ok(None);
    }
    Ok(Some(LatentStatistics {
        mean: list(mean, "numbers", |_| true)?,
        std: list(std, "numbers above 0", |std| *std > 0.0)?,
    }))
}

/// All blocks must be of the one type there is.
fn block_types(file: &ConfigFile, field: &str, only: &str, blocks: usize) -> Result<()> {
    let types: Vec<String> = file
        .get(field, "a list of block types")?
        .unwrap_or_else(|| vec![only.into()]);
    if types.iter().any(|kind| kind != only) {
        return Err(file.unsupported(field));
    }
    if types.len() == blocks {
        Ok(())
    } else {
        Err(file.error(field, &format!("as many as block_out_channels, {blocks}")))
    }
}
