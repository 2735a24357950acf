//! Models written in another layout or another precision.

mod folder;
mod one_file;
mod place;

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, FloatDType};
use sd_models::{
    Files, Kind, PredictionType, TensorFile, UnknownSettings, Weights, Written, inspect,
};

use crate::recipe::ModelFolder;
use crate::{Error, OpenOptions, Result, model_path, single_file};
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
    /// What the denoiser's output means, as in [`OpenOptions`](crate::OpenOptions).
    pub prediction: Option<PredictionType>,
    /// Family of a model in a single file, likewise.
    pub family: Option<String>,
    /// Folder whose settings and tokenizers are taken for a model in a single file, likewise.
    pub config: Option<PathBuf>,
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
/// A model becomes a folder of the same files, its weights in one safetensors file for each
/// component, or one file. A single file of any kind becomes the folder that [`Pipeline::open`]
/// takes it for, with its family's settings and CLIP's tokenizer. What is no whole model, an
/// autoencoder or a LoRA, becomes a safetensors file of the same names. Values pass through memory a
/// few megabytes at a time.
///
/// [`Pipeline::open`]: crate::Pipeline::open
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
    let open = options.open_options();
    if !model_path::is_weights(input) {
        let files = model_path::files(input);
        model_path::check(&files)?;
        single_file::check_unused(&open)?;
        return model(&files, &place, layout, options, &open);
    }
    // What is no whole model has no folder; in one file it stays as it is.
    let found = inspect(input)?;
    if layout == ModelLayout::Ldm && (found.kind != Kind::Model || !found.missing.is_empty()) {
        return tensors(input, &place, options);
    }
    let file = single_file::open(input, &open)?;
    model(file.files(), &place, layout, options, &open)
}

/// The model in the folder `files`.
fn model(
    files: &Files,
    place: &Place,
    layout: ModelLayout,
    options: &ConvertOptions,
    open: &OpenOptions,
) -> Result<Conversion> {
    if layout == ModelLayout::Diffusers {
        return folder::write(files, place, options);
    }
    let folder = ModelFolder::open(files, files.on_disk(), open)?;
    let (tensors, unsaid) = one_file::of_folder(files, &folder, options)?;
    let written = place.file(|to, path| Ok(tensors.write(to, path, options.dtype)?))?;
    Ok(Conversion {
        unsaid,
        ..written.into()
    })
}

/// The tensors of one file under the names they have.
fn tensors(input: &Path, place: &Place, options: &ConvertOptions) -> Result<Conversion> {
    let mut tensors = TensorFile::new();
    let left_out = tensors.add_stored(&Weights::open(input)?)?;
    let written = place.file(|to, path| Ok(tensors.write(to, path, options.dtype)?))?;
    let unsaid = left_out.into_iter();
    Ok(Conversion {
        unsaid: unsaid.map(|name| format!("{name} is left out")).collect(),
        ..written.into()
    })
}

impl ConvertOptions {
    /// The same as a pipeline is opened with. Nothing is computed on its device.
    fn open_options(&self) -> OpenOptions {
        OpenOptions {
            variant: self.variant.clone(),
            unknown_settings: self.unknown_settings,
            prediction: self.prediction,
            family: self.family.clone(),
            config: self.config.clone(),
            ..OpenOptions::new(&Device::default())
        }
    }
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
