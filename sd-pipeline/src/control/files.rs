//! Files of networks that steer: which class opens a folder, and which a single file.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use sd_core::{Error, WeightBytes};
use sd_models::controlnet::ControlNetFiles;
use sd_models::t2i_adapter::T2IAdapterFiles;
use sd_models::unet::{ControlNetwork, ControlSpec, UNetFiles};
use sd_models::{ConfigFile, Error as ModelError, Files, Kind, LoadOptions, OutputReplay, inspect};

use super::Control;
use crate::devices::compiles_kernels;
use crate::work::{Footprint, Work};
use crate::{OpenOptions, Result, Slot, Source, model_path};

type Opened = Box<dyn Source<dyn ControlNetwork>>;
type FolderOpener = fn(&Files, &LoadOptions) -> Result<Opened>;
type FileOpener = fn(&Path, Model<'_>, &LoadOptions) -> Result<Opened>;

/// What is known of the U-Net that a network steers.
#[derive(Clone, Copy)]
struct Model<'a> {
    /// Folder of its configuration.
    folder: Option<&'a Files>,
    /// Its files, with the weights.
    unet: Option<&'a UNetFiles>,
}

/// Networks by the class that a folder names.
static CLASSES: &[(&str, FolderOpener)] = &[
    ("ControlNetModel", controlnet),
    ("ControlNetUnionModel", controlnet),
    ("T2IAdapter", |files, options| {
        Ok(Box::new(T2IAdapterFiles::open(files, options)?))
    }),
];

/// Networks by what a file holds.
static KINDS: &[(Kind, FileOpener)] = &[
    (Kind::T2iAdapter, |path, _, options| {
        Ok(Box::new(T2IAdapterFiles::open_file(path, options)?))
    }),
    (Kind::Controlnet, |path, model, options| {
        let files = ControlNetFiles::open_file(path, model.folder, options)?;
        Ok(Box::new(files))
    }),
    (Kind::ControlLora, |path, model, options| {
        let Some(unet) = model.unet else {
            let what = "it is a Control-LoRA, which needs the weights of the U-Net that it steers: \
                        Control::open_beside opens it beside a pipeline whose denoiser is a U-Net of files";
            let (path, what) = (path.into(), what.into());
            return Err(ModelError::Unsupported { path, what }.into());
        };
        let files = ControlNetFiles::open_control_lora(path, unet, options)?;
        Ok(Box::new(files))
    }),
];

fn controlnet(files: &Files, options: &LoadOptions) -> Result<Opened> {
    Ok(Box::new(ControlNetFiles::open(files, options)?))
}

/// The network at `path`, to be loaded as `options` say.
pub(super) fn open(
    path: &Path,
    unet: Option<&UNetFiles>,
    options: &OpenOptions,
) -> Result<Control> {
    let load = LoadOptions {
        weight_storage: options.weight_storage,
        unknown_settings: options.unknown_settings,
        ..LoadOptions::new(&options.device)
    }
    .by_kernels(options.dtype);
    let load = if options.int8 { load.with_int8() } else { load };
    let is_file = model_path::is_weights(path);
    if !is_file && !path.is_dir() {
        let expected = "expected the folder of a ControlNet or a T2I-Adapter, with config.json, or a \
                        file of its weights";
        return Err(Error::invalid("control", path.display(), expected).into());
    }
    let source = match is_file {
        true => {
            let config = options.config.as_deref();
            let config = config.map(model_path::folder).transpose()?;
            let folder = config.map(|model| model.folder("unet"));
            let folder = folder.as_ref();
            file(path, Model { folder, unet }, &load)?
        }
        false => folder(path, &load, options.variant.as_deref())?,
    };
    Ok(Control {
        network: Slot::boxed(source, options.residency),
        name: model_path::name(path).unwrap_or_else(|| path.display().to_string()),
    })
}

fn file(path: &Path, model: Model<'_>, options: &LoadOptions) -> Result<Opened> {
    let kind = inspect(path)?.kind;
    let opener = KINDS.iter().find(|(own, _)| *own == kind);
    // What is none of them says so as the first does.
    let (_, open) = opener.unwrap_or(&KINDS[1]);
    open(path, model, options)
}

fn folder(path: &Path, options: &LoadOptions, variant: Option<&str>) -> Result<Opened> {
    let files = model_path::folder(path)?;
    let file = ConfigFile::read(&files, "config.json")?;
    let class = file.text("_class_name")?;
    let found = CLASSES
        .iter()
        .find(|(name, _)| Some(*name) == class.as_deref());
    let Some((_, open)) = found else {
        let known: Vec<&str> = CLASSES.iter().map(|(name, _)| *name).collect();
        let class = class.as_deref().unwrap_or("missing");
        let known = known.join(", ");
        let what = format!("_class_name is {class}, of what steers are supported {known}");
        let path = file.path().into();
        return Err(ModelError::Unsupported { path, what }.into());
    };
    let there = files.variants();
    let variant = variant.filter(|asked| there.iter().any(|own| own == asked));
    let options = LoadOptions {
        variant: variant.map(Into::into),
        ..options.clone()
    };
    open(&files, &options)
}

impl Source<dyn ControlNetwork> for ControlNetFiles {
    fn spec(&self) -> &ControlSpec {
        Self::spec(self)
    }

    fn load(&self) -> Result<(Arc<dyn ControlNetwork>, WeightBytes)> {
        let network = Self::load(self)?;
        let weights = network.weights();
        Ok((Arc::new(network), weights))
    }

    fn footprint(&self) -> Option<&dyn Footprint> {
        Some(self)
    }

    fn uses_threads(&self) -> bool {
        !compiles_kernels(&Self::spec(self).device)
    }
}

impl Source<dyn ControlNetwork> for T2IAdapterFiles {
    fn spec(&self) -> &ControlSpec {
        Self::spec(self)
    }

    fn load(&self) -> Result<(Arc<dyn ControlNetwork>, WeightBytes)> {
        let network = Self::load(self)?;
        let weights = network.weights();
        Ok((Arc::new(network), weights))
    }

    fn footprint(&self) -> Option<&dyn Footprint> {
        Some(self)
    }

    fn uses_threads(&self) -> bool {
        !compiles_kernels(&Self::spec(self).device)
    }
}

impl Footprint for ControlNetFiles {
    fn device(&self) -> &Device {
        &Self::spec(self).device
    }

    fn weight_bytes(&self) -> Option<WeightBytes> {
        Self::weight_bytes(self).ok()
    }

    fn work_bytes(&self, work: Work, _: &mut OutputReplay) -> Option<u64> {
        match work {
            Work::Denoise { samples, latent } => Some(Self::work_bytes(self, samples, latent)),
            _ => None,
        }
    }
}

impl Footprint for T2IAdapterFiles {
    fn device(&self) -> &Device {
        &Self::spec(self).device
    }

    fn weight_bytes(&self) -> Option<WeightBytes> {
        Self::weight_bytes(self).ok()
    }

    fn work_bytes(&self, work: Work, _: &mut OutputReplay) -> Option<u64> {
        match work {
            Work::Denoise { latent, .. } => Some(Self::work_bytes(self, latent)),
            _ => None,
        }
    }
}
