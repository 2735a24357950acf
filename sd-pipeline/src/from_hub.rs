//! Models of a hub.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;

use sd_hub::{Hub, HubError, ModelId, Repository};
use sd_models::{Files, RemoteFiles};

use crate::{Error, OpenOptions, Pipeline, Result};

/// A repository whose files are fetched as they are read.
#[derive(Debug)]
struct Fetched(Repository);

impl RemoteFiles for Fetched {
    fn folder(&self) -> &Path {
        self.0.folder()
    }

    fn names(&self) -> &BTreeSet<String> {
        self.0.files()
    }

    fn fetch(&self, name: &str) -> Result<(), Box<dyn StdError + Send + Sync>> {
        self.0.fetch(name)?;
        Ok(())
    }
}

#[cfg_attr(docsrs, doc(cfg(feature = "hub")))]
impl Pipeline {
    /// Opens the model `name` of the hub that the environment names ([`Hub::from_env`]):
    /// `OWNER/NAME`, with `@REVISION` behind it for another than `main`, with `hf:` before it or
    /// without. `OWNER/NAME/FILE` opens a single file, or a folder in the repository.
    ///
    /// Fetched is what [`open`](Self::open) reads of such a folder, when it does: the index first,
    /// then the configurations, weights last; of these the variant that the options say. It lies
    /// in the cache that the Python tools share, and what is there already is not fetched.
    ///
    /// ```no_run
    /// use sd_pipeline::{OpenOptions, Pipeline, device};
    ///
    /// # fn main() -> sd_pipeline::Result<()> {
    /// let options = OpenOptions {
    ///     variant: Some("fp16".into()),
    ///     ..OpenOptions::new(&device("flex")?)
    /// };
    /// let pipeline = Pipeline::from_hub("stabilityai/sd-turbo", &options)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Hub`] when a file cannot be had, which leaves nothing half-written; else as
    /// [`open`](Self::open).
    pub fn from_hub(name: &str, options: &OpenOptions) -> Result<Self> {
        Self::from_hub_with(&Hub::from_env()?, name, options)
    }

    /// As [`from_hub`](Self::from_hub), of a hub with settings, a client or a listener to progress
    /// of the program's own.
    ///
    /// # Errors
    /// As [`from_hub`](Self::from_hub).
    #[tracing::instrument(level = "info", skip_all)]
    pub fn from_hub_with(hub: &Hub, name: &str, options: &OpenOptions) -> Result<Self> {
        let id: ModelId = name.parse()?;
        let repository = hub.repository(&id)?;
        let pipeline = open(&repository, &id, options).map_err(of_hub)?;
        // A cache that others own is read all the same.
        if let Err(error) = repository.keep() {
            tracing::warn!("{error}; offline, this revision will not be found");
        }
        Ok(pipeline)
    }
}

fn open(repository: &Repository, id: &ModelId, options: &OpenOptions) -> Result<Pipeline> {
    let files = Files::remote(Arc::new(Fetched(repository.clone())));
    let Some(path) = id.file() else {
        return Pipeline::from_files(&files, options);
    };
    if repository.files().contains(path) {
        // A configuration beside it goes along.
        let stem = path.rsplit_once('.').map_or(path, |(stem, _)| stem);
        let beside = format!("{stem}.yaml");
        if repository.files().contains(&beside) {
            repository.fetch(&beside)?;
        }
        return Pipeline::open(repository.fetch(path)?, options);
    }
    let folder = path
        .split('/')
        .fold(files, |files, name| files.folder(name));
    match folder.names().is_empty() {
        true => Err(repository.no_file(path).into()),
        false => Pipeline::from_files(&folder, options),
    }
}

/// The hub's error that stopped whoever was reading a file.
fn of_hub(error: Error) -> Error {
    match error {
        Error::Model(sd_models::Error::Remote { path, source }) => {
            match source.downcast::<HubError>() {
                Ok(error) => Error::Hub(*error),
                Err(source) => Error::Model(sd_models::Error::Remote { path, source }),
            }
        }
        error => error,
    }
}
