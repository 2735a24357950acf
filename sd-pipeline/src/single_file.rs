//! Models in single files: the components that they lack, and options that are for them alone.

use std::path::Path;

use sd_models::{Error as ModelError, FileKind, Kind, SingleFile, SingleFileOptions};

use crate::{Error, NotAModel, OpenOptions, Result, model_path};

/// The model in the file `path`, of which all components are there or given.
///
/// # Errors
/// As [`SingleFile::open`]; [`Error::NotAModel`] for one component of a model's folder;
/// [`Error::MissingComponents`] for a file that lacks some.
pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<SingleFile> {
    let config = options.config.as_deref();
    let opened = SingleFile::open(
        path,
        &SingleFileOptions {
            family: options.family.clone(),
            prediction: options.prediction,
            config: config.map(model_path::folder).transpose()?,
        },
    );
    let is_part = match &opened {
        Ok(file) => file.inspection().kind != Kind::Model,
        Err(error) => matches!(error, ModelError::Contents { .. }),
    };
    let missing = opened.as_ref().map_or(Vec::new(), |f| missing(f, options));
    if is_part
        && (opened.is_err() || !missing.is_empty())
        && let Some(model) = model_path::model_around(path)
    {
        let there = NotAModel::File {
            kind: FileKind::of_file(path).unwrap_or(FileKind::Unknown),
            model: Some(model),
        };
        return Err(Error::NotAModel {
            path: path.into(),
            there,
        });
    }
    match missing.is_empty() {
        true => Ok(opened?),
        false => Err(Error::MissingComponents {
            path: path.into(),
            missing,
        }),
    }
}

/// Components that are neither in the file nor given.
fn missing(file: &SingleFile, options: &OpenOptions) -> Vec<String> {
    let (folders, components) = (&options.folders, &options.components);
    let is_given = |name: &&String| match name.as_str() {
        "unet" => folders.denoiser.is_some() || components.denoiser.is_some(),
        "vae" => folders.autoencoder.is_some() || components.autoencoder.is_some(),
        _ => folders.text_encoder.is_some() || components.text_encoder.is_some(),
    };
    let missing = file.missing().iter().filter(|name| !is_given(name));
    missing.cloned().collect()
}

/// A check that no option is given for a folder that only a single file has a use for.
pub(crate) fn check_unused(options: &OpenOptions) -> Result<()> {
    let family = options
        .family
        .as_ref()
        .map(|family| ("family", family.clone()));
    let config = options.config.as_ref();
    let config = config.map(|config| ("config", config.display().to_string()));
    match family.or(config) {
        None => Ok(()),
        Some((name, value)) => {
            let expected = "expected nothing: a folder's own files say what it is";
            Err(sd_core::Error::invalid(name, value, expected).into())
        }
    }
}
