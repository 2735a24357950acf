//! Random-weight models of every family, of 1 MB at most, to test an integration without
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
//! let micro = Micro::new(Family::Sd1, Layout::Diffusers, 0)?;
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
mod families;
mod ldm;
mod tokenizer;
mod values;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use sd_pipeline::models::Files;

use config::Settings;
use ldm::Original;

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
    /// SD-Turbo: Stable Diffusion 2 that predicts the noise, for one step; Euler, trailing.
    SdTurbo,
    /// Stable Diffusion 1.5 for inpainting: a mask and the masked picture beside the latent.
    Sd1Inpaint,
    /// Stable Diffusion 2 for inpainting.
    Sd2Inpaint,
    /// InstructPix2Pix: Stable Diffusion 1.5 with the picture to edit beside the latent.
    InstructPix2Pix,
    /// A latent consistency model of Stable Diffusion 1: the guidance scale is embedded.
    Lcm,
    /// small-sd (BK-SDM-Base): Stable Diffusion 1 with one layer less in each block.
    SmallSd,
    /// tiny-sd (BK-SDM-Tiny): three blocks, attention in all, and no middle.
    TinySd,
    /// SDXS-512-DreamShaper: tiny-sd without attention in the finest block, for one step, with an
    /// `AutoencoderTiny`.
    Sdxs,
    /// SDXS-512-0.9: Stable Diffusion 2's text encoder, and no attention of the finest block's
    /// pixels to each other.
    Sdxs09,
    /// Stable Diffusion XL: two text encoders, one with a pooled output, and sizes and crops
    /// embedded; Euler.
    Sdxl,
    /// Stable Diffusion XL's refiner: the second text encoder only, and an aesthetic score.
    SdxlRefiner,
    /// Stable Diffusion XL for inpainting.
    SdxlInpaint,
    /// SDXL-Turbo: its weights are another's here, its scheduler Euler ancestral, trailing.
    SdxlTurbo,
    /// SDXL-Lightning: Euler, trailing.
    SdxlLightning,
    /// A latent consistency model of Stable Diffusion XL.
    LcmXl,
    /// SSD-1B: Stable Diffusion XL with fewer transformers and a middle of one residual block.
    Ssd1b,
    /// Segmind Vega: with fewer still.
    Vega,
    /// KOALA 700M: one layer a block, and no middle.
    Koala700m,
    /// KOALA 1B: with a middle.
    Koala1b,
    /// InstructPix2Pix on Stable Diffusion XL.
    SdxlInstructPix2Pix,
}

impl Family {
    /// Every family there is.
    pub const ALL: [Self; 22] = [
        Self::Sd1,
        Self::Sd2,
        Self::SdTurbo,
        Self::Sd1Inpaint,
        Self::Sd2Inpaint,
        Self::InstructPix2Pix,
        Self::Lcm,
        Self::SmallSd,
        Self::TinySd,
        Self::Sdxs,
        Self::Sdxs09,
        Self::Sdxl,
        Self::SdxlRefiner,
        Self::SdxlInpaint,
        Self::SdxlTurbo,
        Self::SdxlLightning,
        Self::LcmXl,
        Self::Ssd1b,
        Self::Vega,
        Self::Koala700m,
        Self::Koala1b,
        Self::SdxlInstructPix2Pix,
    ];

    /// Layouts that there are of the family.
    pub fn layouts(self) -> &'static [Layout] {
        match self.original() {
            Some(_) => &[Layout::Diffusers, Layout::Ldm],
            None => &[Layout::Diffusers],
        }
    }

    /// What the original code has of the family.
    fn original(self) -> Option<Original> {
        Some(match self {
            Self::Sd1 => ldm::V1,
            Self::Sd2 => ldm::V2,
            Self::Sd1Inpaint | Self::InstructPix2Pix | Self::Lcm => ldm::LIKE_V1,
            Self::Sd2Inpaint => ldm::LIKE_V2,
            Self::SdTurbo => ldm::TURBO,
            Self::SmallSd | Self::TinySd => ldm::EXPORTED,
            Self::SdxlRefiner => ldm::REFINER,
            // The original code knows no such autoencoder.
            Self::Sdxs | Self::Sdxs09 => return None,
            _ => ldm::XL,
        })
    }
}

/// A family and a layout that it has no model in; see [`Family::layouts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoSuchLayout {
    /// The family asked for.
    pub family: Family,
    /// The layout asked for.
    pub layout: Layout,
}

impl std::fmt::Display for NoSuchLayout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { family, layout } = self;
        let layouts = family.layouts();
        write!(
            f,
            "{family:?} has no micro model in the layout {layout:?}, only in {layouts:?}"
        )
    }
}

impl std::error::Error for NoSuchLayout {}

/// Layout of a model's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// diffusers' folder: `model_index.json` and a sub-folder per component.
    Diffusers,
    /// One file with all tensors under the names of the original code, `model.safetensors`, the
    /// configuration of that code where the family is its first, `model.yaml`, and the tokenizers'
    /// folders, which that code has built in.
    ///
    /// One number more is built into the original code, and no file of this layout says it: 32
    /// groups in every group normalisation, of which a micro model has [`GROUPS`].
    Ldm,
}

/// Groups of the micro models' group normalisations: `norm_num_groups` of their configurations.
pub const GROUPS: usize = 4;

/// Components with weights, and the stream of random numbers of each.
const STREAMS: &[(&str, u64)] = &[
    ("text_encoder", 0),
    ("unet", 1),
    ("vae", 2),
    ("text_encoder_2", 3),
];

/// The files of a micro model, in memory.
#[derive(Clone)]
pub struct Micro {
    files: BTreeMap<String, Vec<u8>>,
}

impl Micro {
    /// The model of `family` in `layout` whose weights come from `seed`. All layouts of one seed
    /// hold the same weights.
    ///
    /// # Errors
    /// [`NoSuchLayout`] of a layout that is not among [`Family::layouts`].
    pub fn new(family: Family, layout: Layout, seed: u64) -> Result<Self, NoSuchLayout> {
        let settings = Settings::new(family);
        let mut components = BTreeMap::new();
        for (name, stream) in STREAMS {
            if let Some((class, file)) = settings.component(name) {
                let shapes = config::read(&file, |file| class.shapes(file));
                let tensors = values::random(shapes, seed, *stream);
                components.insert(*name, (class, tensors));
            }
        }
        let files = match (layout, family.original()) {
            (Layout::Diffusers, _) => {
                let mut files = settings.files();
                for (name, (class, tensors)) in components {
                    let tensors = (tensors.into_iter())
                        .map(|(tensor, values)| (class.published(&tensor), values));
                    let file = format!("{name}/{}.safetensors", class.stem());
                    files.insert(file, values::safetensors(&tensors.collect()));
                }
                files
            }
            (Layout::Ldm, Some(original)) => {
                let tensors = components.into_iter();
                let tensors = tensors.map(|(name, (_, tensors))| (name, tensors));
                original.files(&settings, tensors.collect(), seed)
            }
            (Layout::Ldm, None) => return Err(NoSuchLayout { family, layout }),
        };
        let tokenizers = settings.tokenizers();
        let tokenizers = tokenizers.flat_map(|(folder, pad)| tokenizer::files(&folder, pad));
        Ok(Self {
            files: tokenizers.chain(files).collect(),
        })
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
