use std::path::{Path, PathBuf};

use sd_models::lora::AdapterReport;

#[cfg(feature = "remote")]
use crate::devices::ServeError;
use crate::devices::{DeviceError, KernelCacheError};
use crate::estimate::Bytes;
use crate::{Estimate, NotAModel, PictureError, RecordError, Verdict, WatermarkError};

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a pipeline could not be opened or a picture not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A request or a component that does not work out.
    #[error(transparent)]
    Component(sd_core::Error),
    /// A model folder that could not be loaded.
    #[error(transparent)]
    Model(#[from] sd_models::Error),
    /// A path at which there is no model in diffusers layout.
    #[error("{}: {there}", path.display())]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// What is there instead.
        there: NotAModel,
    },
    /// A model in a single file that lacks components, for which none are given.
    #[error("{}: there is no {} in it; {}", path.display(), missing.join(", no "), ways(missing))]
    MissingComponents {
        /// The file.
        path: PathBuf,
        /// Folders of the components in diffusers' layout.
        missing: Vec<String>,
    },
    /// A file of a hub that could not be had.
    #[cfg(feature = "hub-http")]
    #[cfg_attr(docsrs, doc(cfg(feature = "hub")))]
    #[error(transparent)]
    Hub(#[from] sd_hub::HubError),
    /// A variant of the weights that none of a model's components has.
    #[error(
        "{}: no component has weights of variant {variant:?}; expected {}",
        path.display(),
        if others.is_empty() { "none, for there are no variants".into() } else { others.join(", ") }
    )]
    NoVariant {
        /// The model's folder.
        path: PathBuf,
        /// The variant asked for.
        variant: String,
        /// The variants that are there, each with its component.
        others: Vec<String>,
    },
    /// An adapter of which nothing fits the model, or not all.
    #[error(
        "{}: {report}; the model is {}",
        path.display(),
        model.unwrap_or("of no family that shows")
    )]
    Adapter {
        /// The adapter's file.
        path: PathBuf,
        /// What was matched and what not.
        report: Box<AdapterReport>,
        /// The model's family, as far as the width of its prompts tells.
        model: Option<&'static str>,
    },
    /// A run, or a model, that would take more memory than the pipeline may.
    #[error(
        "it would take {}, more than the limit of {}: {estimate}",
        Bytes(estimate.most()),
        Bytes(*limit)
    )]
    MemoryLimit {
        /// The limit in bytes.
        limit: u64,
        /// The memory it would take.
        estimate: Box<Estimate>,
    },
    /// A scheduler's name or configuration that is not understood.
    #[error(transparent)]
    Scheduler(#[from] sd_schedulers::ConfigError),
    /// A backend that is unknown, not compiled in or not present on this machine, or a server that
    /// was lost.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Devices that could not be lent to other machines.
    #[cfg(feature = "remote")]
    #[cfg_attr(docsrs, doc(cfg(feature = "remote")))]
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A folder in which compiled kernels and measurements cannot be kept.
    #[error(transparent)]
    KernelCache(#[from] KernelCacheError),
    /// A file that could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A path that a model may not be written to.
    #[error("{}: {reason}", path.display())]
    Output {
        /// The path.
        path: PathBuf,
        /// The reason, and what would be right.
        reason: String,
    },
    /// A name for a picture whose ending is that of no format written here.
    #[error("{}: unknown ending of a picture, expected .png, .jpg, .jpeg or .webp", path.display())]
    PictureFormat {
        /// The file.
        path: PathBuf,
    },
    /// A file from which no picture is read.
    #[error("{}: {reason}", path.display())]
    UnreadablePicture {
        /// The file.
        path: PathBuf,
        /// The fault, and what would be right.
        reason: PictureError,
    },
    /// A picture that the safety checker flagged and the pipeline refuses to hand out.
    #[error("the safety checker refuses the picture of seed {seed}: {verdict}")]
    Flagged {
        /// Its seed.
        seed: u64,
        /// The checker's reasons.
        verdict: Verdict,
    },
    /// A picture without a record of how it was drawn.
    #[error("{}: {reason}", path.display())]
    Record {
        /// The picture.
        path: PathBuf,
        /// The fault, and what would be right.
        reason: RecordError,
    },
    /// A picture that takes or shows no watermark.
    #[error(transparent)]
    Watermark(#[from] WatermarkError),
    /// A saved run that is damaged, or not of this request.
    #[error("{}: {reason}", path.display())]
    SavedRun {
        /// The file.
        path: PathBuf,
        /// The fault, and what would be right.
        reason: String,
    },
    /// A latents file without the one tensor it should hold.
    #[error("{}: {reason}", path.display())]
    Latents {
        /// The file.
        path: PathBuf,
        /// The fault, and what would be right.
        reason: String,
    },
}

/// A model that is loaded when it is needed fails as one that is loaded at once.
impl From<sd_core::Error> for Error {
    fn from(error: sd_core::Error) -> Self {
        match error {
            sd_core::Error::Other(error) => match error.downcast() {
                Ok(error) => Self::Model(*error),
                Err(error) => Self::Component(sd_core::Error::Other(error)),
            },
            error => Self::Component(error),
        }
    }
}

/// Ways to give what is missing.
fn ways(missing: &[String]) -> String {
    let ways = missing.iter().map(|name| match name.as_str() {
        "unet" => "OpenOptions::folders.denoiser (--unet)",
        "vae" => "OpenOptions::folders.autoencoder (--vae)",
        _ => "OpenOptions::folders.text_encoder (--text-encoder)",
    });
    let mut ways: Vec<&str> = ways.collect();
    ways.dedup();
    format!("give a file or folder that has it in {}", ways.join(", "))
}

impl Error {
    pub(crate) fn output(path: &Path, reason: impl Into<String>) -> Self {
        Self::Output {
            path: path.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}
