//! Models written in another layout or another precision.

mod folder;
mod place;
mod single_file;

use std::path::Path;

use burn::tensor::{DType, FloatDType};
use sd_models::{Files, TensorFile, UnknownSettings, Weights, Written};

use crate::recipe::ModelFolder;
use crate::{ComponentFolders, Error, Result, model_path};
use place::Place;

/// Layout of a model's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ModelLayout {
    /// diffusers' folder: `model_index.json` and a sub-folder for each component.
    Diffusers,
    /// One safetensors file with the names of the original code (CompVis/latent-diffusion,
    /// Stability-AI/generative-models).
    Ldm,
}

/// Options with which a model is written in another form.
#[derive(Debug, Clone, Default)]
pub struct ConvertOptions {
    /// The layout; `None`: one file where the output's name ends in `.safetensors`, else a folder.
    pub layout: Option<ModelLayout>,
    /// The precision of all weights: f64, f32, f16 or bf16; `None`: each tensor's own, which is f32
    /// for one that is quantised.
    pub dtype: Option<FloatDType>,
    /// Variant of the weights that are read, as in [`OpenOptions`](crate::OpenOptions).
    pub variant: Option<String>,
    /// `true` if a file or a model's folder that is there already may be replaced. Nothing else ever
    /// is, but for an empty folder.
    pub overwrite: bool,
    /// Treatment of a setting that nobody here knows in a configuration.
    pub unknown_settings: UnknownSettings,
}

/// What [`convert`] wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conversion {
    /// Number of tensors.
    pub tensors: usize,
    /// Bytes of the files they are in.
    pub bytes: u64,
    /// Facts of the model that the layout does not say, of which a reader takes its family's: a
    /// scaling factor, a safety checker that has no place in a single file.
    pub unsaid: Vec<String>,
}

/// Writes the model at `input` to `output` in another layout or precision.
///
/// A folder in diffusers' layout becomes a folder of the same files, its weights in one safetensors
/// file for each component, or one file. Any other file of tensors, a checkpoint or GGUF, becomes a
/// safetensors file of the same names. Values pass through memory a few megabytes at a time.
///
/// All is written beside `output` under another name and renamed when it is whole: whatever goes
/// wrong, there is nothing at `output`, or what was there before. What is there is not replaced
/// unless [`overwrite`](ConvertOptions::overwrite) says so, and `input` never.
///
/// A value that is too large for the precision asked for is an error and not a warning: one infinite
/// weight makes every picture black.
///
/// ```no_run
/// use sd_pipeline::{ConvertOptions, FloatDType, convert};
///
/// # fn main() -> sd_pipeline::Result<()> {
/// let options = ConvertOptions {
///     dtype: Some(FloatDType::F16),
///     ..ConvertOptions::default()
/// };
/// convert("stable-diffusion-v1-5", "v1-5-f16.safetensors", &options)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Output`] when nothing may be written there; [`Error::Model`] when the model's files are
/// not sound, or values [overflow](sd_models::Error::Overflow), or something has no place in the
/// layout; [`Error::NotAModel`] when there is no model; [`Error::Io`] when the disk is full.
pub fn convert(
    input: impl AsRef<Path>,
    output: impl AsRef<Path>,
    options: &ConvertOptions,
) -> Result<Conversion> {
    let (input, output) = (input.as_ref(), output.as_ref());
    check_precision(output, options.dtype)?;
    let layout = options.layout.unwrap_or(match output.extension() {
        Some(ending) if ending == "safetensors" => ModelLayout::Ldm,
        _ => ModelLayout::Diffusers,
    });
    let place = Place::check(input, output, options.overwrite)?;
    if input.is_file() {
        return file(input, &place, layout, options);
    }
    let files = model_path::files(input);
    model_path::check(&files)?;
    match layout {
        ModelLayout::Diffusers => folder::write(&files, &place, options),
        ModelLayout::Ldm => single_file(&files, &place, options),
    }
}

/// The model in the folder `files` as one file.
fn single_file(files: &Files, place: &Place, options: &ConvertOptions) -> Result<Conversion> {
    let elsewhere = ComponentFolders::default();
    let folder = ModelFolder::open(files, &elsewhere, options.unknown_settings)?;
    let (tensors, unsaid) = single_file::of_folder(files, &folder, options)?;
    let written = place.file(|to, path| Ok(tensors.write(to, path, options.dtype)?))?;
    Ok(Conversion {
        unsaid,
        ..written.into()
    })
}

/// The tensors of one file as they are.
fn file(
    input: &Path,
    place: &Place,
    layout: ModelLayout,
    options: &ConvertOptions,
) -> Result<Conversion> {
    if layout != ModelLayout::Ldm {
        let reason = "a single file is written as a single file; expected a name that ends in \
                      .safetensors";
        return Err(Error::output(place.path(), reason));
    }
    let mut tensors = TensorFile::new();
    tensors.add_stored(&Weights::open(input)?)?;
    let written = place.file(|to, path| Ok(tensors.write(to, path, options.dtype)?))?;
    Ok(written.into())
}

fn check_precision(output: &Path, dtype: Option<FloatDType>) -> Result<()> {
    match dtype.map(DType::from) {
        None | Some(DType::F64 | DType::F32 | DType::F16 | DType::BF16) => Ok(()),
        Some(other) => {
            let reason =
                format!("{other:?} is not a precision of files; expected F32, F16 or BF16");
            Err(Error::output(output, reason))
        }
    }
}

impl Conversion {
    /// Counts another file.
    fn add(&mut self, written: Written) {
        self.tensors += written.tensors;
        self.bytes += written.bytes;
    }
}

impl From<Written> for Conversion {
    fn from(written: Written) -> Self {
        let mut conversion = Self::default();
        conversion.add(written);
        conversion
    }
}
