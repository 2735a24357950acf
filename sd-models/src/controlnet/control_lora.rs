//! Control-LoRA (Stability AI 2023): a ControlNet as changes of low rank to the weights of the U-Net that
//! it steers.
//!
//! A file has a product `up · down` for each weight of two sides or more that a U-Net has on its way down
//! and in its middle, to be added to it, and all values of the rest, under the original code's names
//! (ComfyUI's `ControlLora`, and the node `ControlLoraSave` that writes such files).

use std::path::Path;
use std::sync::Arc;

use super::single_file::hint;
use super::{ControlNetConfig, ControlNetModel};
use crate::files::Located;
use crate::inspect::Naming;
use crate::inspect::parts::{Part, Role};
use crate::ldm::{Layout, Storage};
use crate::lora::{AdapterReport, LoraFile, LoraStrength, Names, Target};
use crate::single_file::names::Numbers;
use crate::unet::UNetFiles;
use crate::weights::{Renamed, TensorSource, open as open_located, parameter_shapes};
use crate::{Error, LoadOptions, Result, Weights};

/// Name of the empty tensor by which such a file is known.
pub(crate) const MARK: &str = "lora_controlnet";

/// The configuration and the weights, by diffusers' names, of the file `path` beside the network of
/// `unet`. What the file changes is merged while it is read.
pub(super) fn open(
    path: &Path,
    unet: &UNetFiles,
    options: &LoadOptions,
) -> Result<(ControlNetConfig, Weights)> {
    let source = open_located(Located::Disk(path.into()))?.sound()?;
    let contents = |found: String| Error::Contents {
        path: path.into(),
        found,
        expected: "a Control-LoRA of the U-Net that it is to steer".into(),
    };
    let all = source.tensors().iter();
    if !all.clone().any(|tensor| tensor.name == MARK) {
        return Err(contents(format!("no tensor {MARK}")));
    }
    let whole = all.filter(|tensor| tensor.name != MARK && !is_factor(&tensor.name));
    let part = Part {
        role: Role::Unknown,
        layout: Naming::Ldm,
        prefix: "",
        tensors: whole.map(|tensor| (tensor.name.as_str(), tensor)).collect(),
    };
    let (channels, widths) = hint(&part);
    let config = ControlNetConfig::beside(unet.config(), channels.unwrap_or(0), widths);
    let config = config.ok_or_else(|| {
        contents("an embedding of pictures, or a U-Net, that no ControlNet has".into())
    })?;
    let layout = Layout::controlnet(&config);
    let numbers = Numbers::new(source.tensors());
    let entries = numbers.renamed(&part, &layout);
    let mut weights = Weights::from_source(Arc::new(Renamed::new(source.clone(), entries)))?;
    // What the file has not is the U-Net's.
    for name in parameter_shapes(&ControlNetModel::new(&config, &options.device)).keys() {
        if weights.get(name).is_none()
            && let Some(own) = unet.weights().get(name)
        {
            weights.replace(name, own.clone());
        }
    }
    merge(source, &mut weights, &layout, options)?;
    Ok((config, weights))
}

/// `true` of the name of a product's factor.
fn is_factor(name: &str) -> bool {
    [".up", ".down"].iter().any(|end| name.ends_with(end))
}

/// Puts the products of `source` into `weights`.
fn merge(
    source: Arc<dyn TensorSource>,
    weights: &mut Weights,
    layout: &Layout,
    options: &LoadOptions,
) -> Result<()> {
    let all = source.tensors().iter().enumerate();
    let factors = all.filter(|(_, tensor)| is_factor(&tensor.name));
    let factors = factors.map(|(k, tensor)| (k, tensor.name.clone(), Storage::Whole));
    let factors: Vec<_> = factors.collect();
    if factors.is_empty() {
        return Ok(());
    }
    let changes = LoraFile::of_control(Arc::new(Renamed::new(source, factors)))?;
    let names = Names::of_unet(weights.shapes().map(|(name, _)| name), layout);
    let mut matches = changes.unmatched();
    changes.merge_into(
        weights,
        Target::Denoiser,
        &names,
        options.weight_storage,
        &LoraStrength::from(1.0),
        &mut matches,
    )?;
    let report = AdapterReport {
        kind: "control_lora",
        ..changes.report(&matches)
    };
    match report.is_complete() {
        true => Ok(()),
        false => Err(Error::Adapter {
            path: changes.path().into(),
            reason: format!("{report}; expected one made for this model's U-Net"),
        }),
    }
}
