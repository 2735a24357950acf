use std::ops::RangeInclusive;

use crate::unet::{MidBlockConfig, StageConfig, UNetConfig};
use crate::{ConfigFile, Result};

/// No network comes near these; they keep a forged file from asking for absurd sizes.
const CHANNELS: RangeInclusive<usize> = 1..=4096;
const KINDS: RangeInclusive<usize> = 1..=256;
const LAYERS: RangeInclusive<usize> = 1..=32;

/// Classes of ControlNets, and whether each knows several kinds of pictures.
const CLASSES: &[(&str, bool)] = &[("ControlNetModel", false), ("ControlNetUnionModel", true)];

/// Settings that a U-Net has not.
const OWN: &[&str] = &[
    "_class_name",
    "conditioning_channels",
    "conditioning_embedding_out_channels",
    "controlnet_conditioning_channel_order",
    "global_pool_conditions",
    "num_attention_heads",
    "num_control_type",
    "num_proj_channel",
    "num_trans_channel",
    "num_trans_head",
    "num_trans_layer",
];

/// Contents of a `ControlNetModel`'s or `ControlNetUnionModel`'s `config.json`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlNetConfig {
    /// The U-Net whose way down and middle it copies; its way up is not meant.
    pub unet: UNetConfig,
    /// Channels of the picture.
    pub conditioning_channels: usize,
    /// Channels of the picture's embedding, each at half the sides of the one before.
    pub embedding_channels: Vec<usize>,
    /// `true` when the picture's channels are blue, green and red.
    pub is_bgr: bool,
    /// `true` when each of its outputs is one number for each channel, its mean over the picture.
    pub global_pool_conditions: bool,
    /// Of one that knows several kinds of pictures.
    pub union: Option<UnionConfig>,
}

/// Layers that tell kinds of pictures apart (ControlNet++, xinsir6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnionConfig {
    /// Number of kinds.
    pub kinds: usize,
    /// Width of the transformer's tokens, one for each picture and one for the latent.
    pub width: usize,
    /// Its heads.
    pub heads: usize,
    /// Its layers.
    pub layers: usize,
    /// Number of sines and cosines for each kind.
    pub time_channels: usize,
}

impl ControlNetConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// As [`UNetConfig::new`].
    pub fn new(file: &ConfigFile) -> Result<Self> {
        let class = file.text("_class_name")?;
        let class = class.as_deref().unwrap_or(CLASSES[0].0);
        let known = CLASSES.iter().find(|(name, _)| *name == class);
        let (_, is_union) = known.ok_or_else(|| file.unsupported("_class_name"))?;
        let expected = "a list of 2 to 8 whole numbers from 1 to 4096";
        let embedding_channels: Option<Vec<usize>> =
            file.get("conditioning_embedding_out_channels", expected)?;
        // Of a union what diffusers has for absent is in no file.
        let embedding_channels = embedding_channels.unwrap_or_else(|| match is_union {
            true => vec![48, 96, 192, 384],
            false => vec![16, 32, 96, 256],
        });
        let is_sound = (2..=8).contains(&embedding_channels.len());
        if !is_sound || !embedding_channels.iter().all(|c| CHANNELS.contains(c)) {
            return Err(file.error("conditioning_embedding_out_channels", expected));
        }
        let order = "controlnet_conditioning_channel_order";
        let is_bgr = match file.text(order)?.as_deref() {
            None | Some("rgb") => false,
            Some("bgr") if !is_union => true,
            Some(_) => return Err(file.unsupported(order)),
        };
        let unet = UNetConfig::new(&as_unet(file)?)?;
        if unet.mid == MidBlockConfig::None {
            return Err(file.unsupported("mid_block_type"));
        }
        for field in ["num_class_embeds", "time_cond_proj_dim"] {
            if file.has(field) {
                return Err(file.unsupported(field));
            }
        }
        let union = is_union.then(|| union(file, &unet)).transpose()?;
        Ok(Self {
            conditioning_channels: file.size("conditioning_channels", Some(3), 1..=64)?,
            embedding_channels,
            is_bgr,
            global_pool_conditions: file.flag("global_pool_conditions", false)?,
            union,
            unet,
        })
    }

    /// That of a copy of `unet`'s way down and middle that sees pictures of so many channels; `None` where
    /// there are no such networks.
    pub(super) fn beside(
        unet: &UNetConfig,
        conditioning_channels: usize,
        embedding_channels: Vec<usize>,
    ) -> Option<Self> {
        let is_sound = (1..=64).contains(&conditioning_channels)
            && (2..=8).contains(&embedding_channels.len())
            && embedding_channels.iter().all(|c| CHANNELS.contains(c))
            && unet.class_labels.is_none()
            && unet.mid != MidBlockConfig::None;
        is_sound.then(|| Self {
            unet: unet.clone(),
            conditioning_channels,
            embedding_channels,
            is_bgr: false,
            global_pool_conditions: false,
            union: None,
        })
    }

    /// Number of tensors that the U-Net keeps on its way down.
    pub(crate) fn kept(&self) -> usize {
        let stages = self.unet.down_stages();
        let of = |stage: &StageConfig| stage.resnets.len() + usize::from(stage.resample);
        1 + stages.iter().map(of).sum::<usize>()
    }

    /// Number that height and width of a picture are multiples of: its sides in the latent's.
    pub(super) fn factor(&self) -> usize {
        1 << (self.embedding_channels.len() - 1)
    }
}

/// The settings as a U-Net has them, with a way up that mirrors the way down.
fn as_unet(file: &ConfigFile) -> Result<ConfigFile> {
    let mut unet = file.clone();
    let heads = "num_attention_heads";
    // Here, other than in a U-Net, it is the number of heads.
    let number: Option<serde_json::Value> = file.get(heads, "numbers of heads")?;
    if let Some(number) = number {
        unet = unet.with("attention_head_dim", number);
    }
    let types: Option<Vec<String>> = file.get("down_block_types", "a list of block types")?;
    if let Some(types) = types {
        let up = types.iter().rev().map(|name| name.replace("Down", "Up"));
        unet = unet.with("up_block_types", up.collect::<Vec<_>>());
    }
    Ok(unet.without(OWN))
}

fn union(file: &ConfigFile, unet: &UNetConfig) -> Result<UnionConfig> {
    let first = unet.blocks[0].channels;
    let width = file.size("num_trans_channel", Some(320), CHANNELS)?;
    let projected = file.size("num_proj_channel", Some(320), CHANNELS)?;
    for (field, width) in [
        ("num_trans_channel", width),
        ("num_proj_channel", projected),
    ] {
        if width != first {
            let expected = format!("{first}, as the first block's channels");
            return Err(file.error(field, &expected));
        }
    }
    let heads = file.size("num_trans_head", Some(8), CHANNELS)?;
    if !width.is_multiple_of(heads) {
        return Err(file.error("num_trans_head", "a divisor of num_trans_channel"));
    }
    let Some(sizes) = unet.text_time else {
        return Err(file.error("addition_embed_type", "text_time"));
    };
    Ok(UnionConfig {
        kinds: file.size("num_control_type", Some(6), KINDS)?,
        width,
        heads,
        layers: file.size("num_trans_layer", Some(1), LAYERS)?,
        time_channels: sizes.time_channels,
    })
}
