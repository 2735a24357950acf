use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use crate::{
    Body, HttpClient, HubClient, HubError, Listing, Metadata, ModelId, Repository, Result, Settings,
};

/// The longest pause that a server gets by asking for it.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Place of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The file's path in its repository.
    pub file: &'a str,
    /// Bytes that are there, those of an earlier download included.
    pub done: u64,
    /// Bytes of the whole file, if the hub says it.
    pub total: Option<u64>,
}

/// Listener to downloads.
type Tell = dyn Fn(&Progress<'_>) -> ControlFlow<()> + Send + Sync;

/// A hub and the cache of its files on this machine.
#[derive(Clone)]
pub struct Hub {
    pub(crate) client: Arc<dyn HubClient>,
    pub(crate) settings: Settings,
    pub(crate) progress: Option<Arc<Tell>>,
}

/// The client of those who ask nobody.
#[derive(Debug)]
struct Nobody(PathBuf);

impl Nobody {
    fn refuse<T>(&self, what: &str) -> Result<T> {
        Err(HubError::Offline {
            what: what.into(),
            cache: self.0.clone(),
        })
    }
}

impl HubClient for Nobody {
    fn listing(&self, repository: &str, _: &str) -> Result<Listing> {
        self.refuse(repository)
    }

    fn metadata(&self, _: &str, _: &str, file: &str) -> Result<Metadata> {
        self.refuse(file)
    }

    fn read(&self, _: &str, _: &str, file: &str, _: u64) -> Result<Body> {
        self.refuse(file)
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            client, settings, ..
        } = self;
        f.debug_struct("Hub")
            .field("client", client)
            .field("settings", settings)
            .finish_non_exhaustive()
    }
}

impl Hub {
    /// The hub that the environment names, see [`Settings::from_env`].
    ///
    /// # Errors
    /// As [`Settings::from_env`] and [`new`](Self::new).
    pub fn from_env() -> Result<Self> {
        Self::new(Settings::from_env()?)
    }

    /// The hub of `settings`, over HTTP. Offline its address does not matter.
    ///
    /// # Errors
    /// As [`HttpClient::new`].
    pub fn new(settings: Settings) -> Result<Self> {
        let client: Arc<dyn HubClient> = match settings.offline {
            true => Arc::new(Nobody(settings.cache.clone())),
            false => Arc::new(HttpClient::new(&settings)?),
        };
        Ok(Self::with_client(client, settings))
    }

    /// A hub that `client` speaks to. Endpoint, token and timeout are then its own affair.
    pub fn with_client(client: Arc<dyn HubClient>, settings: Settings) -> Self {
        Self {
            client,
            settings,
            progress: None,
        }
    }

    /// The same, which calls `tell` at the beginning of each download and with each piece of it.
    /// [`ControlFlow::Break`] ends it with [`HubError::Stopped`].
    #[must_use]
    pub fn with_progress(
        mut self,
        tell: impl Fn(&Progress<'_>) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Self {
        self.progress = Some(Arc::new(tell));
        self
    }

    /// The repository of the model `id` at its revision, of which the hub is asked once. Where the
    /// hub cannot be reached, or the settings say offline, it is the one in the cache.
    ///
    /// # Errors
    /// [`HubError::Offline`] when it is not in the cache; [`HubError::Refused`],
    /// [`HubError::NotFound`] and others that the client has; [`HubError::UnsafeName`] for a file
    /// whose name leads out of the repository.
    pub fn repository(&self, id: &ModelId) -> Result<Repository> {
        Repository::open(self, id)
    }

    /// The path of the file that `id` names, which is fetched where it is not in the cache.
    ///
    /// # Errors
    /// As [`repository`](Self::repository) and [`Repository::fetch`]; [`HubError::Id`] when it
    /// names no file.
    pub fn file(&self, id: &ModelId) -> Result<PathBuf> {
        let file = id.file().ok_or_else(|| HubError::Id {
            id: id.to_string(),
            reason: "names no file".into(),
        })?;
        let repository = self.repository(id)?;
        let path = repository.fetch(file)?;
        repository.keep()?;
        Ok(path)
    }

    /// Asks up to `attempts` times, as long as that may help.
    pub(crate) fn ask<T>(&self, attempts: u32, ask: impl Fn() -> Result<T>) -> Result<T> {
        let mut failed = 0;
        loop {
            match ask() {
                Err(fault) if fault.is_temporary() && failed + 1 < attempts => {
                    failed += 1;
                    self.pause(failed, fault)?;
                }
                answer => return answer,
            }
        }
    }

    /// Waits after the attempt of number `failed` that went wrong; after the last, `fault` is
    /// returned.
    pub(crate) fn pause(&self, failed: u32, fault: HubError) -> Result<()> {
        let Settings {
            attempts, pause, ..
        } = self.settings;
        if failed >= attempts {
            return Err(fault);
        }
        tracing::info!("{fault}; asking again");
        let own = pause * (1 << failed.saturating_sub(1).min(4));
        let asked = match fault {
            HubError::Status { retry_after, .. } => retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        sleep(own.max(asked).min(LONGEST_PAUSE));
        Ok(())
    }
}
