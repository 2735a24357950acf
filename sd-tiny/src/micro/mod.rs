//! Random-weight models of every family, smaller than 1 MB, to test an integration without
//! weights.
//!
//! A micro model has exactly the tensors of the published checkpoint, by number and by name, as
//! many layers and the same settings; only its tensors are narrow (8 and 16 channels), and its
//! vocabulary is bytes. What it draws means nothing, but it is the same wherever the model is
//! opened. Everything is made in code from a seed:
//!
//! ```no_run
//! use sd_pipeline::{OpenOptions, Pipeline, Request, device};
//! use sd_tiny::micro::{Family, Layout, Micro};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let micro = Micro::new(Family::Sd1, Layout::Diffusers, 0);
//! let options = OpenOptions::new(&device("flex")?);
//! let pipeline = Pipeline::from_files(&micro.files(), &options)?;
//! let picture = &pipeline.generate(&Request::new("anything"))?[0];
//!
//! // Or for a program that wants a folder.
//! micro.write_to("micro-sd1")?;
//! # Ok(())
//! # }
//! ```
//!
//! The bytes of a family, layout and seed do not change within a minor version, nor from one
//! machine to another.

mod config;
mod ldm;
mod tokenizer;
mod values;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use sd_pipeline::Device;
use sd_pipeline::models::unet::{UNet2DConditionModel, UNetConfig};
use sd_pipeline::models::vae::{AutoencoderKL, VaeConfig};
use sd_pipeline::models::{ClipTextConfig, ClipTextModel, ConfigFile, Files, parameter_shapes};
use serde_json::Value;

/// Shapes by diffusers' names.
type Shapes = BTreeMap<String, Vec<usize>>;

/// A kind of model that the library opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Family {
    /// Stable Diffusion 1.5: CLIP's own text encoder, convolutional projections around the
    /// transformers, prediction of the noise; PNDM.
    Sd1,
    /// Stable Diffusion 2.1: OpenCLIP's text encoder, linear projections, heads of equal width,
    /// prediction of the velocity; DDIM.
    Sd2,
}

impl Family {
    /// Every family there is.
    pub const ALL: [Self; 2] = [Self::Sd1, Self::Sd2];
}

/// Layout of a model's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// diffusers' folder: `model_index.json` and a sub-folder per component.
    Diffusers,
    /// One file with all tensors under the names of the original code, `model.safetensors`, the
    /// configuration of that code, `model.yaml`, and the folder `tokenizer`, which that code has
    /// built in.
    ///
    /// One number more is built into the original code, and no file of this layout says it: 32
    /// groups in every group normalisation, of which a micro model has [`GROUPS`].
    Ldm,
}

/// Groups of the micro models' group normalisations: `norm_num_groups` of their configurations.
pub const GROUPS: usize = 4;

/// The files of a micro model, in memory.
#[derive(Clone)]
pub struct Micro {
    files: BTreeMap<String, Vec<u8>>,
}

impl Micro {
    /// The model of `family` in `layout` whose weights come from `seed`. Both layouts of one seed
    /// hold the same weights.
    pub fn new(family: Family, layout: Layout, seed: u64) -> Self {
        // Modules without values belong to no device yet; naming one starts nothing.
        let device = Device::default();
        let text = parameter_shapes(&ClipTextModel::new(text_config(family), &device));
        let vae = parameter_shapes(&AutoencoderKL::new(&vae_config(), &device));
        let [text, unet, vae] = [(text, 0), (unet(family, &device), 1), (vae, 2)]
            .map(|(shapes, stream)| values::random(shapes, seed, stream));
        let files = match layout {
            Layout::Diffusers => {
                let mut files = config::files(family);
                // As in the published files, which are older than transformers' shorter names.
                let text = text.into_iter();
                let text = text.map(|(name, tensor)| (format!("text_model.{name}"), tensor));
                for (name, tensors) in [
                    ("text_encoder/model.safetensors", text.collect()),
                    ("unet/diffusion_pytorch_model.safetensors", unet),
                    ("vae/diffusion_pytorch_model.safetensors", vae),
                ] {
                    files.insert(name.into(), values::safetensors(&tensors));
                }
                files
            }
            Layout::Ldm => {
                let tensors = ldm::tensors(family, text, unet, vae, seed);
                BTreeMap::from([
                    ("model.safetensors".into(), values::safetensors(&tensors)),
                    ("model.yaml".into(), config::yaml(family).into_bytes()),
                ])
            }
        };
        let tokenizer = tokenizer::files(family);
        Self {
            files: files.into_iter().chain(tokenizer).collect(),
        }
    }

    /// The files as the library opens them.
    pub fn files(&self) -> Files {
        Files::memory(self.files.clone())
    }

    /// Each file's name within the model, with `/`, and its bytes, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let files = self.files.iter();
        files.map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// Writes the files into `folder`, which is made where it does not exist.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_to(&self, folder: impl AsRef<Path>) -> io::Result<()> {
        for (name, bytes) in self.iter() {
            let path = folder.as_ref().join(name);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(path, bytes)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Micro {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sizes = self.iter().map(|(name, bytes)| (name, bytes.len()));
        f.debug_map().entries(sizes).finish()
    }
}

fn unet(family: Family, device: &Device) -> Shapes {
    let mut shapes = parameter_shapes(&UNet2DConditionModel::new(&unet_config(family), device));
    // The library's linear layer serves both kinds of projection.
    let convolutions = config::unet(family)["use_linear_projection"] == false;
    let projection = |name: &str| {
        ["proj_in.weight", "proj_out.weight"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    for (name, shape) in &mut shapes {
        if convolutions && projection(name) {
            shape.extend([1, 1]);
        }
    }
    shapes
}

fn text_config(family: Family) -> ClipTextConfig {
    read(config::text_encoder(family), ClipTextConfig::from_file)
}

fn unet_config(family: Family) -> UNetConfig {
    read(config::unet(family), UNetConfig::new)
}

fn vae_config() -> VaeConfig {
    read(config::vae(), VaeConfig::new)
}

/// A configuration as the library reads it.
fn read<C>(config: Value, read: impl Fn(&ConfigFile) -> sd_pipeline::models::Result<C>) -> C {
    let Value::Object(settings) = config else {
        unreachable!("a configuration is an object")
    };
    let config = read(&ConfigFile::new("config.json", settings));
    config.expect("the micro models' settings are in range")
}
