use std::ops::RangeInclusive;

use crate::{ConfigFile, Result};

/// No network comes near these; they keep a forged file from asking for absurd sizes.
const CHANNELS: RangeInclusive<usize> = 1..=65_536;
const RESNETS: RangeInclusive<usize> = 1..=16;

const KNOWN: &[&str] = &[
    "adapter_type",
    "channels",
    "downscale_factor",
    "in_channels",
    "num_res_blocks",
];

/// Contents of a `T2IAdapter`'s `config.json`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct T2IAdapterConfig {
    /// Channels of the picture: 3, or 1 of a grey one.
    pub in_channels: usize,
    /// Channels of the features, finest first; a light adapter has its last twice.
    pub channels: Vec<usize>,
    /// Residual blocks of each stage.
    pub resnets: usize,
    /// Pixels of a side of the squares that the first layer sees as one.
    pub downscale_factor: usize,
    /// Build of the network.
    pub kind: AdapterType,
}

/// Builds of a T2I-Adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterType {
    /// For Stable Diffusion 1: every stage but the first halves the picture.
    Full,
    /// For SDXL: the third alone does.
    FullXl,
    /// Narrow within a stage; every one but the first halves.
    Light,
}

/// Names of the builds in files.
const TYPES: &[(&str, AdapterType)] = &[
    ("full_adapter", AdapterType::Full),
    ("full_adapter_xl", AdapterType::FullXl),
    ("light_adapter", AdapterType::Light),
];

impl T2IAdapterConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for numbers out of range,
    /// [`Error::Unsupported`](crate::Error::Unsupported) for settings that are not implemented.
    pub fn new(file: &ConfigFile) -> Result<Self> {
        match file.text("_class_name")?.as_deref() {
            None | Some("T2IAdapter") => {}
            Some(_) => return Err(file.unsupported("_class_name")),
        }
        file.refuse_others(KNOWN, &[])?;
        let kind = file.text("adapter_type")?;
        let kind = kind.as_deref().unwrap_or(TYPES[0].0);
        let known = TYPES.iter().find(|(name, _)| *name == kind);
        let (_, kind) = known.ok_or_else(|| file.unsupported("adapter_type"))?;
        let expected = "a list of 1 to 8 whole numbers, multiples of 4 in a light adapter";
        let channels: Option<Vec<usize>> = file.get("channels", expected)?;
        let channels = channels.unwrap_or_else(|| vec![320, 640, 1280, 1280]);
        let step = match kind {
            AdapterType::Light => 4,
            _ => 1,
        };
        let fits = |c: &usize| CHANNELS.contains(c) && c.is_multiple_of(step);
        if !(1..=8).contains(&channels.len()) || !channels.iter().all(fits) {
            return Err(file.error("channels", expected));
        }
        Ok(Self {
            in_channels: file.size("in_channels", Some(3), 1..=64)?,
            channels,
            resnets: file.size("num_res_blocks", Some(2), RESNETS)?,
            downscale_factor: file.size("downscale_factor", Some(8), 1..=64)?,
            kind: *kind,
        })
    }

    /// Of each stage its channels in and out, and whether it halves the picture first.
    pub(super) fn stages(&self) -> Vec<([usize; 2], bool)> {
        let channels = &self.channels;
        let before = |i: usize| channels[i.saturating_sub(1)];
        let last = channels.len();
        match self.kind {
            AdapterType::Full => (0..last)
                .map(|i| ([before(i), channels[i]], i > 0))
                .collect(),
            AdapterType::FullXl => (0..last)
                .map(|i| match i {
                    1 | 2 => ([before(i), channels[i]], i == 2),
                    _ => ([channels[i]; 2], false),
                })
                .collect(),
            AdapterType::Light => (0..=last)
                .map(|i| match i {
                    0 => ([self.unshuffled(), channels[0]], false),
                    i if i == last => ([channels[i - 1]; 2], true),
                    i => ([channels[i - 1], channels[i]], true),
                })
                .collect(),
        }
    }

    /// Channels of the picture once its squares are one pixel each.
    pub(super) fn unshuffled(&self) -> usize {
        self.in_channels * self.downscale_factor.pow(2)
    }
}
