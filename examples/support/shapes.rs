//! The products, convolutions and attentions of a model's networks, with the sizes they have at a
//! picture's size.

use std::collections::BTreeSet;

use sd_pipeline::burn::tensor::Device;
use sd_pipeline::core::BoxError;
use sd_pipeline::models::unet::{UNet2DConditionModel, UNetConfig};
use sd_pipeline::models::vae::{AutoencoderKL, VaeConfig};
use sd_pipeline::models::{ConfigFile, Files, parameter_shapes};

/// Tokens of a prompt.
const TOKENS: usize = 77;

/// One operation with all its sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    Linear {
        rows: usize,
        inputs: usize,
        outputs: usize,
    },
    /// A square kernel over a square picture.
    Conv {
        batch: usize,
        inputs: usize,
        outputs: usize,
        side: usize,
        kernel: usize,
        stride: usize,
    },
    Attention {
        batch: usize,
        heads: usize,
        queries: usize,
        keys: usize,
        width: usize,
    },
}

/// Every different operation of the U-Net, `batch` samples at once, and of the VAE in the folder
/// `files`, for pictures of `size` pixels. Names and shapes come from the networks themselves, which
/// have no weights for it.
pub(crate) fn works(files: &Files, size: usize, batch: usize) -> Result<Vec<Work>, BoxError> {
    let device = Device::flex();
    let file = |name: &str| ConfigFile::read(&files.folder(name), "config.json");
    let vae_config = VaeConfig::new(&file("vae")?)?;
    let latent = size / vae_config.factor();
    let mut works = BTreeSet::new();

    let config = UNetConfig::new(&file("unet")?)?;
    let levels = config.blocks.len();
    let unet = UNet2DConditionModel::new(&config, &device);
    for (name, shape) in parameter_shapes(&unet) {
        let place = Place::of(&name, levels);
        let side = match place.deep {
            true => latent >> place.level,
            false => latent,
        };
        let heads = config.blocks[place.level.min(levels - 1)].heads;
        add(&mut works, &name, &shape, side, batch, heads);
    }
    let levels = vae_config.block_out_channels.len();
    let vae = AutoencoderKL::new(&vae_config, &device);
    for (name, shape) in parameter_shapes(&vae) {
        let place = Place::of(&name, levels);
        let at_the_latent = name.contains("quant_conv")
            || name == "decoder.conv_in.weight"
            || name == "encoder.conv_out.weight";
        let side = match (place.deep, at_the_latent) {
            (true, _) => size >> place.level,
            (false, true) => latent,
            (false, false) => size,
        };
        add(&mut works, &name, &shape, side, 1, 1);
    }
    Ok(works.into_iter().collect())
}

/// Where in a U-shaped network a parameter is.
struct Place {
    /// Level of the picture, 0 the largest.
    level: usize,
    /// In one of the blocks, and not before or behind all of them.
    deep: bool,
}

impl Place {
    fn of(name: &str, levels: usize) -> Self {
        let after = |block: &str| -> Option<usize> {
            let (_, rest) = name.split_once(block)?;
            rest.split('.').next()?.parse().ok()
        };
        if let Some(level) = after("down_blocks.") {
            return Self { level, deep: true };
        }
        let level = match after("up_blocks.") {
            // What enlarges works on the larger picture.
            Some(block) => (levels - 1 - block) - usize::from(name.contains("upsamplers")),
            None if name.contains("mid_block") => levels - 1,
            None => {
                return Self {
                    level: 0,
                    deep: false,
                };
            }
        };
        Self { level, deep: true }
    }
}

fn add(
    works: &mut BTreeSet<Work>,
    name: &str,
    shape: &[usize],
    side: usize,
    batch: usize,
    heads: usize,
) {
    match *shape {
        [outputs, inputs, kernel, _] => {
            let stride = 1 + usize::from(name.contains("downsamplers"));
            works.insert(Work::Conv {
                batch,
                inputs,
                outputs,
                side,
                kernel,
                stride,
            });
        }
        [outputs, inputs] => {
            let is_context = ["attn2.to_k", "attn2.to_v"]
                .iter()
                .any(|of| name.contains(of));
            let tokens = match name {
                _ if name.contains("emb") => 1,
                _ if is_context => TOKENS,
                _ => side * side,
            };
            works.insert(Work::Linear {
                rows: batch * tokens,
                inputs,
                outputs,
            });
            if name.ends_with("to_q.weight") {
                let is_cross = name.contains("attn2");
                works.insert(Work::Attention {
                    batch,
                    heads,
                    queries: tokens,
                    keys: if is_cross { TOKENS } else { tokens },
                    width: outputs / heads,
                });
            }
        }
        _ => {}
    }
}
