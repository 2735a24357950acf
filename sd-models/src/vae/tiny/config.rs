use std::ops::RangeInclusive;

use crate::{ConfigFile, Result};

/// No autoencoder comes near these; they keep a forged file from asking for absurd sizes.
const CHANNELS: RangeInclusive<usize> = 1..=65_536;
const BLOCKS: RangeInclusive<usize> = 0..=64;

/// Settings that are read, and those that change nothing here: diffusers stores latents as bytes
/// by two of them, computes in any precision whatever `force_upcast` says, and writes the widths
/// down once more.
const KNOWN: &[&str] = &[
    "act_fn",
    "block_out_channels",
    "decoder_block_out_channels",
    "encoder_block_out_channels",
    "force_upcast",
    "in_channels",
    "latent_channels",
    "latent_magnitude",
    "latent_shift",
    "num_decoder_blocks",
    "num_encoder_blocks",
    "out_channels",
    "scaling_factor",
    "shift_factor",
];

/// Settings that may have these values only.
const FIXED: &[(&str, &[&str])] = &[
    ("quantization_config", &[]),
    ("upsample_fn", &["\"nearest\""]),
    ("upsampling_scaling_factor", &["2"]),
];

/// The `config.json` of an `AutoencoderTiny`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct TinyVaeConfig {
    /// Channels of a picture that goes in: 3.
    pub in_channels: usize,
    /// Channels of a picture that comes out: 3.
    pub out_channels: usize,
    /// Channels of a latent: 4, 16 or 32.
    pub latent_channels: usize,
    /// Channels inside the encoder, the same at each resolution.
    pub encoder_channels: usize,
    /// Channels inside the decoder, likewise.
    pub decoder_channels: usize,
    /// Residual blocks at each resolution of the encoder, the picture's first.
    pub encoder_blocks: Vec<usize>,
    /// Residual blocks at each resolution of the decoder, the latent's first.
    pub decoder_blocks: Vec<usize>,
    /// Latents are multiplied by this: 1, as it was trained on those that denoisers work on.
    pub scaling_factor: f64,
    /// The number taken off latents before that: 0.
    pub shift_factor: f64,
}

impl TinyVaeConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for numbers out of range and settings that
    /// contradict each other, [`Error::Unsupported`](crate::Error::Unsupported) for settings that
    /// are not implemented, known or unknown.
    pub fn new(file: &ConfigFile) -> Result<Self> {
        file.refuse_others(KNOWN, FIXED)?;
        match file.text("_class_name")?.as_deref() {
            None | Some("AutoencoderTiny") => {}
            Some(_) => return Err(file.unsupported("_class_name")),
        }
        match file.text("act_fn")?.as_deref() {
            None | Some("relu") => {}
            Some(_) => return Err(file.unsupported("act_fn")),
        }
        let encoder_blocks = blocks(file, "num_encoder_blocks", [1, 3, 3, 3])?;
        let decoder_blocks = blocks(file, "num_decoder_blocks", [3, 3, 3, 1])?;
        let count = encoder_blocks.len();
        if decoder_blocks.len() != count {
            let expected = format!("as many as num_encoder_blocks, {count}");
            return Err(file.error("num_decoder_blocks", &expected));
        }
        let expected = "a number";
        let shift_factor = file.get("shift_factor", expected)?.unwrap_or(0.0);
        Ok(Self {
            in_channels: file.size("in_channels", Some(3), CHANNELS)?,
            out_channels: file.size("out_channels", Some(3), CHANNELS)?,
            latent_channels: file.size("latent_channels", Some(4), CHANNELS)?,
            encoder_channels: channels(file, "encoder_block_out_channels", count)?,
            decoder_channels: channels(file, "decoder_block_out_channels", count)?,
            encoder_blocks,
            decoder_blocks,
            scaling_factor: file.positive("scaling_factor", 1.0)?,
            shift_factor,
        })
    }

    /// Pixels per latent pixel in each direction.
    pub fn factor(&self) -> usize {
        1 << (self.encoder_blocks.len() - 1)
    }
}

/// Numbers of blocks, one for each resolution.
fn blocks(file: &ConfigFile, field: &str, default: [usize; 4]) -> Result<Vec<usize>> {
    let expected = "a list of 1 to 8 whole numbers from 0 to 64";
    let blocks: Vec<usize> = file.get(field, expected)?.unwrap_or_else(|| default.into());
    if (1..=8).contains(&blocks.len()) && blocks.iter().all(|count| BLOCKS.contains(count)) {
        Ok(blocks)
    } else {
        Err(file.error(field, expected))
    }
}

/// The one width of `count` resolutions; diffusers' network works with no others.
fn channels(file: &ConfigFile, field: &str, count: usize) -> Result<usize> {
    let expected = format!("{count} times the same whole number from 1 to 65536");
    let channels: Vec<usize> = file
        .get(field, &expected)?
        .unwrap_or_else(|| vec![64; count]);
    let all_same = channels.iter().all(|width| *width == channels[0]);
    match channels.first() {
        Some(width) if channels.len() == count && all_same && CHANNELS.contains(width) => {
            Ok(*width)
        }
        _ => Err(file.error(field, &expected)),
    }
}
