//! LoRAs that act beside a pipeline's components.

use sd_core::WeightBytes;
use sd_models::{BesideLayers, LayerChanges};

use crate::StepScales;

/// A LoRA beside the layers of a pipeline's components.
#[derive(Debug, Clone)]
pub(crate) struct Beside {
    /// Of each network of the text encoder.
    pub(crate) text: Vec<LayerChanges>,
    /// Of each network of the denoiser.
    pub(crate) denoiser: Vec<LayerChanges>,
    /// Further factors in the denoiser.
    pub(crate) steps: StepScales,
}

/// What the factors of `all` take.
pub(crate) fn weights(all: &[Beside]) -> WeightBytes {
    LayerChanges::weights((all.iter()).flat_map(|one| one.text.iter().chain(&one.denoiser)))
}

/// What the text encoder is told of `all`; `None` where that is nothing.
pub(crate) fn of_text(all: &[Beside]) -> Option<BesideLayers> {
    lists(all.iter().map(|one| (&one.text[..], 1.0)))
}

/// What the denoiser is told of `all` in step number `step` of so many; `None` where that is nothing.
pub(crate) fn of_denoiser(all: &[Beside], step: usize, steps: usize) -> Option<BesideLayers> {
    lists((all.iter()).map(|one| (&one.denoiser[..], one.steps.at(step, steps))))
}

/// A list for each network, of what acts beside its layers.
fn lists<'a>(all: impl Iterator<Item = (&'a [LayerChanges], f32)>) -> Option<BesideLayers> {
    let mut lists: Vec<Vec<LayerChanges>> = Vec::new();
    for (networks, factor) in all {
        lists.resize(lists.len().max(networks.len()), Vec::new());
        for (list, changes) in lists.iter_mut().zip(networks) {
            if !changes.is_empty() && factor != 0.0 {
                list.push(changes.times(factor));
            }
        }
    }
    let any = lists.iter().any(|list| !list.is_empty());
    any.then_some(BesideLayers(lists))
}
