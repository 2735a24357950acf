//! Changes that act beside the layers of a network.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use burn::tensor::{DType, Device};
use sd_core::{Error, Extension, Result, WeightBytes};

use crate::layers::{AnySide, Pack};

/// Changes beside the layers of one network: what they add to the layers' products, without the
/// weights being touched. Clones share it.
///
/// A [`LoraFile`](crate::lora::LoraFile) is read as such
/// ([`UNetFiles::lora_beside`](crate::unet::UNetFiles::lora_beside)).
#[derive(Clone)]
pub struct LayerChanges {
    /// By the layers' names, each with the factor of its own.
    layers: Arc<BTreeMap<String, (AnySide, f32)>>,
    factor: f32,
    /// Device and number type of the layers that they are for.
    place: (Device, DType),
}

impl LayerChanges {
    pub(crate) fn new(layers: BTreeMap<String, (AnySide, f32)>, place: (Device, DType)) -> Self {
        Self {
            layers: Arc::new(layers),
            factor: 1.0,
            place,
        }
    }

    /// The same, `factor` times as strong.
    #[must_use]
    pub fn times(&self, factor: f32) -> Self {
        Self {
            factor: self.factor * factor,
            ..self.clone()
        }
    }

    /// Number of layers that change.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// The bytes that `all` take together. What is made of one open file is there once, however
    /// often and how strongly it acts.
    pub fn weights<'a>(all: impl IntoIterator<Item = &'a Self>) -> WeightBytes {
        let mut seen = HashSet::new();
        let sides = all.into_iter().flat_map(|changes| changes.layers.values());
        let sides = sides.filter(|(side, _)| seen.insert(side.address()));
        let bytes = sides.map(|(side, _)| side.bytes());
        bytes.fold(WeightBytes::default(), |sum, own| sum + own)
    }

    /// `true` where none does.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }
}

impl PartialEq for LayerChanges {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.layers, &other.layers) && self.factor == other.factor
    }
}

impl fmt::Debug for LayerChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerChanges")
            .field("layers", &self.layers.len())
            .field("factor", &self.factor)
            .finish()
    }
}

/// Changes beside the layers of a component with one network or several: one list for each network,
/// of which all act at once.
///
/// [`UNet`](crate::unet::UNet) reads it of each of its branches, which may have different ones, and the
/// text encoders when they are [told](sd_core::TextEncoder::told).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BesideLayers(pub Vec<Vec<LayerChanges>>);

impl Extension for BesideLayers {
    const NAME: &'static str = "changes beside the layers (a LoRA at run time)";
}

impl BesideLayers {
    /// The list of each of `N` networks, as many as a component has.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where there are lists for more or fewer.
    pub(crate) fn of<const N: usize>(self) -> Result<[Vec<LayerChanges>; N]> {
        self.0.try_into().map_err(|lists: Vec<_>| {
            let expected = format!("expected {N}, one for each of its networks");
            Error::invalid("lists of changes beside the layers", lists.len(), expected)
        })
    }
}

/// `module`, which is on the device and of the number type `place`, with `changes` beside its layers.
/// Its weights are shared.
///
/// # Errors
/// [`Error::InvalidArgument`] naming a layer that it does not have, or not so; for changes of another
/// place; for a factor that is not finite.
pub(crate) fn changed<M: Pack + Clone>(
    module: &M,
    changes: &[LayerChanges],
    place: &(Device, DType),
) -> Result<M> {
    let mut module = module.clone();
    let mut layers = Vec::new();
    module.layers("", &mut layers);
    let layers = layers.into_iter().map(|found| (found.name, found.layer));
    let mut layers: BTreeMap<String, _> = layers.collect();
    for change in changes {
        if change.place != *place {
            let expected = format!("expected those of a network on {place:?}");
            let found = format!("{:?}", change.place);
            return Err(Error::invalid("changes beside the layers", found, expected));
        }
        for (name, (side, own)) in &*change.layers {
            let found = layers.get_mut(name).filter(|layer| layer.accepts(side));
            let Some(layer) = found else {
                let expected = "expected the changes of a network of the same layers";
                return Err(Error::invalid("a layer to change", name, expected));
            };
            let factor = own * change.factor;
            if !factor.is_finite() {
                let expected = "expected a finite number";
                return Err(Error::invalid("strength of a change", factor, expected));
            }
            if factor != 0.0 {
                layer.put_beside(side, factor);
            }
        }
    }
    drop(layers);
    Ok(module)
}
