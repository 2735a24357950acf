//! Changes to a model's weights that people share: LoRA and its kin, in every dialect.
//!
//! A [`LoraFile`] is taken apart by its tensors' names (`grammar`), each module found in a
//! network by any of the spellings that trainers have for it (`names`), and its change merged
//! into the weights while they are read (`merged`), so that there is never a second copy of them, or
//! put beside the network's layers ([`LayerChanges`]), whose weights are then not touched. Which
//! forms of change there are, and what they fit, is in `module`, what each does to a tensor in
//! `change`.

mod change;
mod grammar;
mod matrix;
mod merged;
mod module;
mod names;
mod report;
mod rotation;
mod settings;
mod strength;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};

use burn::tensor::DType;

pub use self::grammar::Target;
pub(crate) use self::names::Names;
pub use self::report::AdapterReport;
pub use self::strength::{BlockScales, LoraStrength};

use self::change::Change;
use self::grammar::{Parsed, parse, parse_control, spelling};
use self::merged::{Merged, Reader, Sides};
use self::module::Module;
use self::settings::Settings;
use crate::layers::{Addition, Pack};
use crate::weights::{TensorSource, Weights, open_source};
use crate::{Error, Files, LayerChanges, LoadOptions, Result, WeightStorage, inspect};

/// No file of changes has more tensors: the largest known, of every layer of SDXL in LoKr with DoRA,
/// has 15,000.
const MAX_TENSORS: usize = 200_000;

/// A file of changes to a model's weights, found sound; the values are still in it.
///
/// The forms are LoRA on linear layers and convolutions (with LyCORIS' middle factor too), LoHa,
/// LoKr, OFT and BOFT, whole differences, and DoRA over any of them; the names those of kohya's
/// trainers, LyCORIS, OneTrainer, SimpleTuner, diffusers old and new, peft and ComfyUI.
#[derive(Clone)]
pub struct LoraFile {
    path: PathBuf,
    reader: Arc<Reader>,
    /// Tensors that are no part of a change.
    strays: Arc<Vec<String>>,
    family: Option<String>,
}

/// Modules of a [`LoraFile`] that were found in networks so far.
#[derive(Debug, Clone)]
pub struct Matches {
    fates: Vec<Fate>,
    /// Blocks of the networks.
    blocks: BTreeSet<String>,
}

impl Matches {
    /// Number of modules that were found.
    pub fn found(&self) -> usize {
        let found = self.fates.iter().filter(|fate| **fate == Fate::Matched);
        found.count()
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Fate {
    Unmatched,
    Matched,
    /// And the reason.
    Misshapen(String),
}

impl LoraFile {
    /// Opens a file of any kind that [`open_source`] does, or peft's folder of
    /// `adapter_config.json` and `adapter_model.safetensors`.
    ///
    /// # Errors
    /// As [`open_source`]; [`Error::Adapter`] when there is no change to weights in it, or one that
    /// cannot be: an alpha that is not finite, a tensor twice; [`Error::Json`] when peft's settings
    /// are none.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if !path.is_dir() {
            return Self::from_source(path, open_source(path)?, None, parse);
        }
        let files = Files::directory(path);
        let config = "adapter_config.json";
        let settings = Settings::parse(&files.path(config), &files.read(config)?)?;
        let names = ["adapter_model.safetensors", "adapter_model.bin"];
        let name = names.iter().find(|name| files.has(name));
        let source = open_source(files.path(name.unwrap_or(&names[0])))?;
        Self::from_source(path, source, Some(&settings), parse)
    }

    /// The changes of a Control-LoRA, of which `source` has nothing else.
    pub(crate) fn of_control(source: Arc<dyn TensorSource>) -> Result<Self> {
        let path = source.path().to_path_buf();
        Self::from_source(&path, source, None, parse_control)
    }

    fn from_source(
        opened: &Path,
        source: Arc<dyn TensorSource>,
        settings: Option<&Settings>,
        take_apart: fn(&str) -> Option<Parsed<'_>>,
    ) -> Result<Self> {
        let path = source.path();
        let fault = |reason: String| Error::Adapter {
            path: path.into(),
            reason,
        };
        let count = source.tensors().len();
        if count > MAX_TENSORS {
            let expected = format!("expected at most {MAX_TENSORS}");
            return Err(fault(format!("it has {count} tensors; {expected}")));
        }
        let notes = source.metadata().get("lora_adapter_metadata");
        let notes = notes.map(|text| Settings::from_notes(path, text));
        let notes = notes.transpose()?.unwrap_or_default();
        let mut modules: BTreeMap<(Target, String), Module> = BTreeMap::new();
        let mut strays = Vec::new();
        for (index, tensor) in source.tensors().iter().enumerate() {
            let Some(parsed) = take_apart(&tensor.name) else {
                strays.push(tensor.name.clone());
                continue;
            };
            let key = (parsed.network, spelling(parsed.module));
            let module = modules.entry(key.clone()).or_insert_with(|| {
                let of_network = notes.iter().find(|(network, _)| *network == parsed.network);
                let settings = settings.or(of_network.map(|(_, settings)| settings));
                Module {
                    network: parsed.network,
                    name: name_of(&tensor.name, parsed.module),
                    spelling: key.1,
                    tensors: BTreeMap::new(),
                    factor: settings.and_then(|settings| settings.factor(parsed.module)),
                }
            });
            if module.tensors.insert(parsed.role, index).is_some() {
                let reason = format!("module {}: {} is there twice", module.name, tensor.name);
                return Err(fault(reason));
            }
        }
        let modules: Vec<Module> = modules.into_values().collect();
        if modules.is_empty() {
            let kind = inspect(path).ok().map(|found| found.kind);
            let kind = kind.map_or("unknown".into(), |kind| format!("{kind:?}").to_lowercase());
            return Err(fault(format!(
                "there is no change to a model's weights in it, its kind is {kind}; expected a LoRA or its kin"
            )));
        }
        for module in &modules {
            module.alpha(&*source)?;
        }
        Ok(Self {
            path: opened.into(),
            family: inspect::lora_family(source.tensors(), source.metadata()).map(String::from),
            reader: Arc::new(Reader::new(source, modules)),
            strays: Arc::new(strays),
        })
    }

    /// The file, or peft's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Family of models that the file is for, where its shapes or notes tell.
    pub fn family(&self) -> Option<&str> {
        self.family.as_deref()
    }

    /// Matches of no network yet.
    pub fn unmatched(&self) -> Matches {
        Matches {
            fates: vec![Fate::Unmatched; self.reader.modules.len()],
            blocks: BTreeSet::new(),
        }
    }

    /// Report on the file after all networks were searched.
    pub fn report(&self, matches: &Matches) -> AdapterReport {
        let modules = || self.reader.modules.iter().zip(&matches.fates);
        let unmatched = modules().filter(|(_, fate)| **fate == Fate::Unmatched);
        let unmatched = unmatched.map(|(module, _)| module.name.clone());
        let misshapen = modules().filter_map(|(module, fate)| match fate {
            Fate::Misshapen(reason) => Some(format!("{}: {reason}", module.name)),
            _ => None,
        });
        AdapterReport {
            kind: "lora",
            family: self.family.clone(),
            matched: matches.found(),
            unmatched: unmatched.chain(self.strays.iter().cloned()).collect(),
            misshapen: misshapen.collect(),
        }
    }

    /// Checks that every block that `strength` names is one of a network that was searched.
    ///
    /// # Errors
    /// [`Error::Adapter`] naming the block and those there are.
    pub fn check_blocks(&self, strength: &LoraStrength, matches: &Matches) -> Result<()> {
        let blocks = || matches.blocks.iter().map(String::as_str);
        let Some(lost) = strength.blocks.lost(blocks()) else {
            return Ok(());
        };
        let there: Vec<&str> = blocks().collect();
        Err(Error::Adapter {
            path: self.path.clone(),
            reason: format!(
                "the model has no block {lost}, expected one of {}",
                there.join(", ")
            ),
        })
    }

    /// Puts the changes of `network`'s modules into `weights`, `strength` times each, and notes in
    /// `matches` what was found. Where `storage` keeps halves, sums are rounded to them.
    pub(crate) fn merge_into(
        &self,
        weights: &mut Weights,
        network: Target,
        names: &Names,
        storage: WeightStorage,
        strength: &LoraStrength,
        matches: &mut Matches,
    ) -> Result<()> {
        let keeps = storage != WeightStorage::F32;
        for Found { module, layer } in self.find(weights, network, names, matches)? {
            let strength = strength.of(names.block(&layer));
            let own = &self.reader.modules[module];
            for (last, is_bias, changes) in [
                ("weight", false, own.changes_weight()),
                ("bias", true, own.changes_bias()),
            ] {
                let name = format!("{layer}.{last}");
                if changes && let Some(original) = weights.get(&name) {
                    let original = original.clone();
                    let adapter = self.reader.clone();
                    let place = (module, is_bias);
                    let merged = Merged::new(original, keeps, adapter, place, strength)?;
                    weights.replace(&name, merged.stored());
                }
            }
        }
        Ok(())
    }

    /// The changes of `network`'s modules as what acts beside the layers of `network_of`, whose
    /// tensors `weights` are, `strength` times each; `matches` gets what was found. Nothing of
    /// `weights` is read. What is made of the file is kept as long as it is open, for the next time.
    pub(crate) fn beside<M: Pack>(
        &self,
        (weights, mut network_of): (&Weights, M),
        network: Target,
        names: &Names,
        options: &LoadOptions,
        strength: &LoraStrength,
        matches: &mut Matches,
    ) -> Result<LayerChanges> {
        let (mut layers, mut changes) = (Vec::new(), BTreeMap::new());
        network_of.layers("", &mut layers);
        let layers: BTreeMap<String, _> = layers
            .into_iter()
            .map(|found| (found.name, found.layer))
            .collect();
        let (device, dtype) = (&options.device, DType::from(options.dtype));
        for Found { module, layer } in self.find(weights, network, names, matches)? {
            let own = &self.reader.modules[module];
            let refused = |reason: &str| own.error(&*self.reader.source, reason);
            let place = layers.get(&layer);
            let place = place.ok_or_else(|| {
                refused("it changes a layer that nothing can act beside; merge it instead")
            })?;
            let kept = {
                let sides = self.sides();
                let kept = sides.get(&(module, network)).cloned();
                kept.filter(|(d, t, side)| d == device && *t == dtype && place.accepts(side))
            };
            let side = match kept {
                Some((_, _, side)) => side,
                None => {
                    let addition = self.addition(module, weights, &layer)?;
                    let addition = addition.ok_or_else(|| {
                        refused(
                            "it turns or scales the weight (DoRA, OFT), which is no sum; merge it \
                             instead",
                        )
                    })?;
                    let side = place.side(addition, device, dtype).ok_or_else(|| {
                        refused(
                            "it changes a table, beside which nothing can act; merge it instead",
                        )
                    })??;
                    let entry = (device.clone(), dtype, side.clone());
                    self.sides().insert((module, network), entry);
                    side
                }
            };
            let strength = strength.of(names.block(&layer));
            changes.insert(layer, (side, strength));
        }
        Ok(LayerChanges::new(changes, (device.clone(), dtype)))
    }

    /// The change of module number `module`, read; `None` where it is no sum.
    fn addition(&self, module: usize, weights: &Weights, layer: &str) -> Result<Option<Addition>> {
        let own = &self.reader.modules[module];
        let source = &*self.reader.source;
        let mut addition = Addition::default();
        let weight = weights.get(&format!("{layer}.weight"));
        if let Some(weight) = weight.filter(|_| own.changes_weight()) {
            let change = Change::read(own, source, &weight.shape)?;
            let Some(factors) = change.factors(&weight.shape) else {
                return Ok(None);
            };
            addition.product = Some(factors);
        }
        if own.changes_bias() {
            addition.bias = Some(Change::read_bias(own, source)?.into_bias());
        }
        Ok(Some(addition))
    }

    fn sides(&self) -> MutexGuard<'_, Sides> {
        let sides = &self.reader.sides;
        sides.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The modules that `network`, of the tensors `weights`, has; what became of each is noted in
    /// `matches`.
    fn find(
        &self,
        weights: &Weights,
        network: Target,
        names: &Names,
        matches: &mut Matches,
    ) -> Result<Vec<Found>> {
        let (mut all, mut taken) = (Vec::new(), BTreeMap::new());
        matches.blocks.extend(names.blocks().map(String::from));
        for (index, module) in self.reader.modules.iter().enumerate() {
            if !module.network.may_be(network) {
                continue;
            }
            let Some(found) = names.find(&module.spelling) else {
                continue;
            };
            let shape = |last: &str| {
                let stored = weights.get(&format!("{found}.{last}"));
                stored.map(|stored| &*stored.shape)
            };
            let tensors = self.reader.source.tensors();
            if let Err(reason) = module.fits(tensors, shape("weight"), shape("bias")) {
                // Two networks may have modules of one name, of which it fits one.
                if matches.fates[index] != Fate::Matched {
                    matches.fates[index] = Fate::Misshapen(reason);
                }
                continue;
            }
            if let Some(other) = taken.insert(found, &module.name) {
                let reason = format!("and {other} both change {found}");
                return Err(module.error(&*self.reader.source, reason));
            }
            matches.fates[index] = Fate::Matched;
            all.push(Found {
                module: index,
                layer: found.into(),
            });
        }
        Ok(all)
    }
}

/// A module of an adapter in a network.
struct Found {
    /// Its number in the file.
    module: usize,
    /// The network's name of it.
    layer: String,
}

/// The beginning of the tensor's name that ends with its module's.
fn name_of(tensor: &str, module: &str) -> String {
    let end = tensor
        .find(module)
        .map_or(tensor.len(), |at| at + module.len());
    tensor[..end].into()
}

impl fmt::Debug for LoraFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoraFile")
            .field("path", &self.path())
            .field("modules", &self.reader.modules.len())
            .finish()
    }
}

#[cfg(test)]
mod tests;
