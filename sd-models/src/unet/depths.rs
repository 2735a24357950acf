//! Depths of the transformers: a setting of many spellings.

use std::ops::RangeInclusive;

use serde::Deserialize;

use crate::config::OneOrMany;
use crate::{ConfigFile, Result};

/// SDXL has 10; more than this is a forged file.
const DEPTH: RangeInclusive<usize> = 0..=32;

/// For each resolution, finest first, a depth for each of its residual blocks.
type DepthsPerLayer = Vec<Vec<usize>>;

/// A number of transformer blocks for all resolutions, or for each, or for each of its layers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Depths {
    Same(usize),
    Each(Vec<OneOrMany<usize>>),
}

/// Depths of the transformers at each resolution, finest first: on the way down and on the way up.
pub(super) fn transformer_depths(
    file: &ConfigFile,
    layers: &[usize],
) -> Result<(DepthsPerLayer, DepthsPerLayer)> {
    let (field, reverse) = (
        "transformer_layers_per_block",
        "reverse_transformer_layers_per_block",
    );
    let expected = "one depth from 0 to 32 for all blocks, for each, or for each of its layers";
    let depths = |field: &str| -> Result<Option<Vec<OneOrMany<usize>>>> {
        Ok(match file.get(field, expected)? {
            None => None,
            Some(Depths::Same(depth)) => Some(vec![OneOrMany::One(depth); layers.len()]),
            Some(Depths::Each(depths)) => Some(depths),
        })
    };
    let down = depths(field)?.unwrap_or_else(|| vec![OneOrMany::One(1); layers.len()]);
    let (up_field, mut up) = match depths(reverse)? {
        Some(up) => (reverse, up),
        // How lists would be shared out on the way up, where blocks have one layer more, is open.
        None if down.iter().any(|d| matches!(d, OneOrMany::Many(_))) => {
            let expected = "given, as transformer_layers_per_block has lists in it";
            return Err(file.error(reverse, expected));
        }
        None => (field, down.iter().rev().cloned().collect()),
    };
    // It is listed coarsest first.
    up.reverse();
    let down = expand_depths(&down, layers, 0).ok_or_else(|| file.error(field, expected))?;
    let up = expand_depths(&up, layers, 1).ok_or_else(|| file.error(up_field, expected))?;
    Ok((down, up))
}

/// One depth for each residual block, `layers + extra` at each resolution.
fn expand_depths(
    depths: &[OneOrMany<usize>],
    layers: &[usize],
    extra: usize,
) -> Option<DepthsPerLayer> {
    let expand = |(depth, layers): (&OneOrMany<usize>, &usize)| {
        let layers = layers + extra;
        let depths = match depth {
            OneOrMany::One(depth) => vec![*depth; layers],
            OneOrMany::Many(depths) => depths.get(..layers)?.to_vec(),
        };
        let fit = depths.iter().all(|d| DEPTH.contains(d));
        fit.then_some(depths)
    };
    let all = depths.iter().zip(layers).map(expand).collect();
    if depths.len() == layers.len() {
        all
    } else {
        None
    }
}
