//! Changes to a model's weights that people share: LoRA and its kin, in every dialect.
//!
//! A [`LoraFile`] is taken apart by its tensors' names (`grammar`), each module found in a
//! network by any of the spellings that trainers have for it (`names`), and its change merged
//! into the weights while they are read (`merged`): there is never a second copy of them. Which
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

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::grammar::Target;
pub(crate) use self::names::Names;
pub use self::report::AdapterReport;

use self::grammar::{parse, spelling};
use self::merged::{Merged, Reader};
use self::module::Module;
use self::settings::Settings;
use crate::weights::{TensorSource, Weights, open_source};
use crate::{Error, Files, Result, WeightStorage, inspect};

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
#[derive(Debug, Clone, PartialEq)]
pub struct Matches(Vec<Fate>);

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
            return Self::from_source(path, open_source(path)?, None);
        }
        let files = Files::directory(path);
        let config = "adapter_config.json";
        let settings = Settings::parse(&files.path(config), &files.read(config)?)?;
        let names = ["adapter_model.safetensors", "adapter_model.bin"];
        let name = names.iter().find(|name| files.has(name));
        let source = open_source(files.path(name.unwrap_or(&names[0])))?;
        Self::from_source(path, source, Some(&settings))
    }

    fn from_source(
        opened: &Path,
        source: Arc<dyn TensorSource>,
        settings: Option<&Settings>,
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
            let Some(parsed) = parse(&tensor.name) else {
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
        Matches(vec![Fate::Unmatched; self.reader.modules.len()])
    }

    /// Report on the file after all networks were searched.
    pub fn report(&self, matches: &Matches) -> AdapterReport {
        let modules = || self.reader.modules.iter().zip(&matches.0);
        let unmatched = modules().filter(|(_, fate)| **fate == Fate::Unmatched);
        let unmatched = unmatched.map(|(module, _)| module.name.clone());
        let misshapen = modules().filter_map(|(module, fate)| match fate {
            Fate::Misshapen(reason) => Some(format!("{}: {reason}", module.name)),
            _ => None,
        });
        AdapterReport {
            kind: "lora",
            family: self.family.clone(),
            matched: modules()
                .filter(|(_, fate)| **fate == Fate::Matched)
                .count(),
            unmatched: unmatched.chain(self.strays.iter().cloned()).collect(),
            misshapen: misshapen.collect(),
        }
    }

    /// Puts the changes of `network`'s modules into `weights`, `strength` times each, and notes in
    /// `matches` what was found. Where `storage` keeps halves, sums are rounded to them.
    pub(crate) fn merge_into(
        &self,
        weights: &mut Weights,
        network: Target,
        names: &Names,
        storage: WeightStorage,
        strength: f32,
        matches: &mut Matches,
    ) -> Result<()> {
        let keeps = storage != WeightStorage::F32;
        let mut taken: BTreeMap<String, &str> = BTreeMap::new();
        for (index, module) in self.reader.modules.iter().enumerate() {
            if !module.network.may_be(network) {
                continue;
            }
            let Some(found) = names.find(&module.spelling) else {
                continue;
            };
            let [weight, bias] = ["weight", "bias"].map(|last| format!("{found}.{last}"));
            let shape = |name: &str| weights.get(name).map(|stored| stored.shape.clone());
            let [weight_shape, bias_shape] = [shape(&weight), shape(&bias)];
            let tensors = self.reader.source.tensors();
            if let Err(reason) =
                module.fits(tensors, weight_shape.as_deref(), bias_shape.as_deref())
            {
                // Two networks may have modules of one name, of which it fits one.
                if matches.0[index] != Fate::Matched {
                    matches.0[index] = Fate::Misshapen(reason);
                }
                continue;
            }
            if let Some(other) = taken.insert(found.into(), &module.name) {
                let reason = format!("and {other} both change {found}");
                return Err(module.error(&*self.reader.source, reason));
            }
            matches.0[index] = Fate::Matched;
            for (name, is_bias, changes) in [
                (weight, false, module.changes_weight()),
                (bias, true, module.changes_bias()),
            ] {
                if changes && let Some(original) = weights.get(&name) {
                    let original = original.clone();
                    let adapter = self.reader.clone();
                    let merged = Merged::new(original, keeps, adapter, (index, is_bias), strength)?;
                    weights.replace(&name, merged.stored());
                }
            }
        }
        Ok(())
    }
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
