//! A model's folder, written again.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use burn::tensor::FloatDType;
use sd_models::{ComponentClass, ConfigFile, Files, TensorFile, Weights, Written, ldm};
use serde_json::{Map, Value};

use super::place::Place;
use super::{Conversion, ConvertOptions};
use crate::model_path::INDEX;
use crate::variants::Variants;
use crate::{Error, Result};

/// A component as the index names it.
struct Component {
    name: String,
    class: String,
    files: Files,
}

/// Writes the folder `files`: what the index names, and the index.
pub(super) fn write(files: &Files, place: &Place, options: &ConvertOptions) -> Result<Conversion> {
    let components = components(files)?;
    let with_weights = components.iter().filter(|c| c.files.has_weights());
    let with_weights = with_weights.map(|c| (c.name.clone(), c.files.clone()));
    let with_weights: Vec<_> = with_weights.collect();
    let variants = Variants::find(files, &with_weights, options.variant.as_deref())?;

    // All that can be wrong at little cost comes before the first byte is written.
    let mut found = Vec::new();
    for component in &components {
        let variant = variants.of(&component.name);
        found.push((component, component.tensors(variant.as_deref(), options)?));
    }
    place.folder(|folder| {
        let mut conversion = Conversion::default();
        copy(files, INDEX, folder)?;
        for (component, tensors) in &found {
            let folder = folder.join(&component.name);
            fs::create_dir(&folder).map_err(Error::io(&folder))?;
            if let Some((stem, tensors)) = tensors {
                let path = folder.join(format!("{stem}.safetensors"));
                conversion.add(tensors_file(tensors, &path, options.dtype)?);
            }
            for name in component.files.without_weights() {
                let is_config = name == "config.json" && tensors.is_some();
                match options.dtype.filter(|_| is_config) {
                    Some(dtype) => config_in(&component.files, dtype, &folder)?,
                    None => copy(&component.files, &name, &folder)?,
                }
            }
        }
        Ok(conversion)
    })
}

/// The components that the index of `files` names.
fn components(files: &Files) -> Result<Vec<Component>> {
    let index: Map<String, Value> = files.json(INDEX)?;
    let mut components = Vec::new();
    for (name, entry) in index {
        let class = match entry.as_array().map(Vec::as_slice) {
            Some([_, Value::String(class)]) if !name.starts_with('_') => class.clone(),
            _ => continue,
        };
        // A name with a folder in it would lead out of this one.
        let folder = files.folder(&name);
        if !files.names().contains(&name) || folder.names().is_empty() {
            let what = format!("{name} is {class}, and there is no folder of that name");
            let path = files.path(INDEX);
            return Err(sd_models::Error::Unsupported { path, what }.into());
        }
        components.push(Component {
            name,
            class,
            files: folder,
        });
    }
    Ok(components)
}

impl Component {
    /// The weights' file without its ending, and what is in it; `None` of a component without
    /// weights.
    fn tensors(
        &self,
        variant: Option<&str>,
        options: &ConvertOptions,
    ) -> Result<Option<(&'static str, TensorFile)>> {
        if !self.files.has_weights() {
            return Ok(None);
        }
        let mut tensors = TensorFile::new();
        if let Some(class) = ComponentClass::named(&self.class) {
            let file = ConfigFile::read(&self.files, "config.json")?;
            let file = file.on_unknown(options.unknown_settings);
            let weights = self.files.weights(class.stem(), variant)?;
            tensors.add(&weights, &class.shapes(&file)?, |name| {
                Some(ldm::Place {
                    name: class.published(name),
                    storage: ldm::Storage::Whole,
                })
            })?;
            return Ok(Some((class.stem(), tensors)));
        }
        // What is not known here keeps the names it has.
        let (stem, weights) = self.stored(variant)?;
        if let Some(name) = tensors.add_stored(&weights)?.first() {
            let what = format!("tensor {name} is of numbers that are not written");
            let path = weights.path().into();
            return Err(sd_models::Error::Unsupported { path, what }.into());
        }
        Ok(Some((stem, tensors)))
    }

    /// The weights of a class that is not known: transformers' name, or diffusers'.
    fn stored(&self, variant: Option<&str>) -> Result<(&'static str, Weights)> {
        let [ours, theirs] = ["diffusion_pytorch_model", "model"];
        match self.files.weights(ours, variant) {
            Ok(weights) => Ok((ours, weights)),
            Err(sd_models::Error::NoWeights { .. }) => {
                Ok((theirs, self.files.weights(theirs, variant)?))
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn tensors_file(tensors: &TensorFile, path: &Path, dtype: Option<FloatDType>) -> Result<Written> {
    let mut file = File::create_new(path).map_err(Error::io(path))?;
    let written = tensors.write(&mut file, path, dtype)?;
    file.sync_all().map_err(Error::io(path))?;
    Ok(written)
}

fn copy(files: &Files, name: &str, folder: &Path) -> Result<()> {
    put(&folder.join(name), &files.read(name)?)
}

/// The configuration with the precision of the weights, where it says one: transformers opens them
/// in that.
fn config_in(files: &Files, dtype: FloatDType, folder: &Path) -> Result<()> {
    let name = "config.json";
    let mut config: Map<String, Value> = files.json(name)?;
    for field in ["torch_dtype", "dtype"] {
        if let Some(said) = config.get_mut(field).filter(|said| said.is_string()) {
            *said = torch_name(dtype).into();
        }
    }
    let path = folder.join(name);
    let json = serde_json::to_vec_pretty(&config).map_err(|e| Error::io(&path)(e.into()))?;
    put(&path, &json)
}

fn torch_name(dtype: FloatDType) -> &'static str {
    match dtype {
        FloatDType::F64 => "float64",
        FloatDType::F16 => "float16",
        FloatDType::BF16 => "bfloat16",
        FloatDType::F32 | FloatDType::Flex32 => "float32",
    }
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = File::create_new(path);
    let written = file.and_then(|mut file| file.write_all(bytes));
    written.map_err(Error::io(path))
}
