//! A T2I-Adapter in one file: settings by its tensors' shapes, and names by the table of its layout.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::T2IAdapterConfig;
use crate::files::Located;
use crate::inspect::Naming;
use crate::inspect::parts::{Part, Role};
use crate::ldm::Layout;
use crate::single_file::names::Numbers;
use crate::weights::{Renamed, TensorSource, open as open_located};
use crate::{ConfigFile, Error, Result, Weights};

/// The configuration and the weights, by diffusers' names, in the file `path`.
pub(super) fn open(path: &Path) -> Result<(ConfigFile, Weights)> {
    let source = open_located(Located::Disk(path.into()))?.sound()?;
    let tensors = source.tensors();
    let is_diffusers = tensors.iter().any(|t| t.name.starts_with("adapter."));
    let own: BTreeMap<&str, _> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let part = Part {
        role: Role::Unknown,
        layout: match is_diffusers {
            true => Naming::Diffusers,
            false => Naming::Ldm,
        },
        prefix: "",
        tensors: own,
    };
    let Some(settings) = settings(&part) else {
        return Err(Error::Contents {
            path: path.into(),
            found: "tensors of something else".into(),
            expected: "a T2I-Adapter's, a body of residual blocks".into(),
        });
    };
    let file = ConfigFile::new(path, settings);
    let numbers = Numbers::new(tensors);
    let entries = match is_diffusers {
        true => numbers.kept(&part),
        false => numbers.renamed(&part, &Layout::t2i_adapter(&T2IAdapterConfig::new(&file)?)),
    };
    let renamed: Arc<dyn TensorSource> = Arc::new(Renamed::new(source.clone(), entries));
    Ok((file, Weights::from_source(renamed)?))
}

/// The settings that the shapes tell.
fn settings(part: &Part<'_>) -> Option<Map<String, Value>> {
    let is_diffusers = part.layout == Naming::Diffusers;
    let start = if is_diffusers { "adapter." } else { "" };
    let side = |name: String, axis| part.side(&format!("{start}{name}.weight"), axis);
    let count = |list: &str| {
        let is_there = |k: &usize| part.any(&format!("{start}{list}{k}."));
        (0..128).take_while(is_there).count()
    };
    let within = if is_diffusers { "resnets" } else { "body" };
    let all = count("body.");
    let first = side("conv_in".into(), 0);
    let (kind, channels, resnets, inputs) = match first {
        None => {
            let outputs = (0..all).map(|k| side(format!("body.{k}.out_conv"), 0));
            let mut outputs: Vec<usize> = outputs.collect::<Option<_>>()?;
            outputs.pop();
            let resnets = count(&format!("body.0.{within}."));
            (
                "light_adapter",
                outputs,
                resnets,
                side("body.0.in_conv".into(), 1)?,
            )
        }
        Some(_) => {
            // Of one list of all blocks a stage has two, as published.
            let (resnets, stages) = match is_diffusers {
                true => (count("body.0.resnets."), all),
                false => (2, all / 2),
            };
            let block = |stage: usize| match is_diffusers {
                true => format!("body.{stage}.resnets.0.block1"),
                false => format!("body.{}.block1", stage * 2),
            };
            let widths = (0..stages).map(|stage| side(block(stage), 0));
            let widths: Vec<usize> = widths.collect::<Option<_>>()?;
            ("full", widths, resnets, side("conv_in".into(), 1)?)
        }
    };
    // Squares of 16 by 16 pixels are SDXL's, of which grey ones have no more channels than coloured ones
    // of 8 by 8 have.
    let (in_channels, factor) = match inputs {
        64 => (1, 8),
        192 => (3, 8),
        256 => (1, 16),
        768 => (3, 16),
        _ => return None,
    };
    let kind = match (kind, factor) {
        ("full", 16) => "full_adapter_xl",
        ("full", _) => "full_adapter",
        (kind, _) => kind,
    };
    let mut settings = Map::new();
    settings.insert("_class_name".into(), "T2IAdapter".into());
    settings.insert("adapter_type".into(), kind.into());
    settings.insert("channels".into(), channels.into());
    settings.insert("num_res_blocks".into(), resnets.into());
    settings.insert("downscale_factor".into(), factor.into());
    settings.insert("in_channels".into(), in_channels.into());
    Some(settings)
}
