use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::cache::CachedRepository;
use crate::download::Download;
use crate::names::{is_blob, is_commit, is_inside};
use crate::{Hub, HubError, Listing, ModelId, Result};

/// A repository at one commit: its files by name, and those in the cache by path.
#[derive(Debug, Clone)]
pub struct Repository {
    hub: Hub,
    id: ModelId,
    cache: CachedRepository,
    commit: String,
    files: BTreeSet<String>,
    folder: PathBuf,
    /// `true` where the files are those in the cache, and no more.
    cached: bool,
}

impl Repository {
    pub(crate) fn open(hub: &Hub, id: &ModelId) -> Result<Self> {
        let cache = CachedRepository::new(&hub.settings.cache, id.repository());
        let known = cache.commit(id.revision());
        let from_cache = |commit: String| {
            let files = cache.files(&commit)?;
            Ok(Self::new(hub, id, &cache, Listing { commit, files }, true))
        };
        if hub.settings.offline {
            let commit = known.ok_or_else(|| HubError::Offline {
                what: format!("{} at {}", id.repository(), id.revision()),
                cache: cache.folder().into(),
            })?;
            return from_cache(commit);
        }
        // Whoever has it already need not wait for a hub that is not there.
        let attempts = if known.is_some() {
            1
        } else {
            hub.settings.attempts
        };
        let asked = hub.ask(attempts, || {
            hub.client.listing(id.repository(), id.revision())
        });
        match (asked, known) {
            (Ok(listing), _) => {
                check(id, &listing)?;
                Ok(Self::new(hub, id, &cache, listing, false))
            }
            (Err(fault), Some(commit)) if fault.is_temporary() => {
                tracing::warn!("{fault}; {id} is taken from the cache");
                from_cache(commit)
            }
            (Err(fault), _) => Err(fault),
        }
    }

    fn new(
        hub: &Hub,
        id: &ModelId,
        cache: &CachedRepository,
        listing: Listing,
        cached: bool,
    ) -> Self {
        Self {
            hub: hub.clone(),
            id: id.clone(),
            cache: cache.clone(),
            folder: cache.snapshot(&listing.commit),
            commit: listing.commit,
            files: listing.files,
            cached,
        }
    }

    /// The commit's hash.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// Paths of the files, with `/`; in the cache alone, those that are there.
    pub fn files(&self) -> &BTreeSet<String> {
        &self.files
    }

    /// The folder that files are fetched to. It need not exist, and has what was asked for so far.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of the file `file`, which is fetched where it is not in the cache, and checked
    /// before it is there.
    ///
    /// # Errors
    /// [`HubError::NoFile`] when the repository has none of that name; [`HubError::Offline`] when
    /// it is not in the cache and nothing may be fetched; [`HubError::Size`] and
    /// [`HubError::Hash`] when what is received is not what the hub promised;
    /// [`HubError::Stopped`]; [`HubError::Io`]; others of the client, once all attempts have
    /// failed. What was fetched of a large file stays for the next time.
    pub fn fetch(&self, file: &str) -> Result<PathBuf> {
        if !self.files.contains(file) {
            return Err(self.no_file(file));
        }
        let path = self.folder.join(file);
        if path.exists() {
            return Ok(path);
        }
        if self.cached {
            return Err(HubError::Offline {
                what: format!("{file} of {}", self.id.repository()),
                cache: self.cache.folder().into(),
            });
        }
        let Hub {
            client, settings, ..
        } = &self.hub;
        let repository = self.id.repository();
        let metadata = self.hub.ask(settings.attempts, || {
            client.metadata(repository, &self.commit, file)
        })?;
        if !is_blob(&metadata.etag) {
            return Err(HubError::UnsafeName {
                source_of: format!("the etag of {file}"),
                name: metadata.etag.chars().take(200).collect(),
            });
        }
        let _lock = self.cache.lock(&metadata.etag)?;
        let blob = self.cache.blob(&metadata.etag);
        if !blob.exists() {
            let download = Download {
                hub: &self.hub,
                repository,
                commit: &self.commit,
                file,
                metadata: &metadata,
            };
            download.to(&blob)?;
        }
        self.cache.link(&self.commit, file, &metadata.etag)
    }

    /// Notes this commit as the one of its revision, for those who are offline. It belongs behind
    /// the last [`fetch`](Self::fetch): until then, the note leads to the files of before.
    ///
    /// # Errors
    /// [`HubError::Io`] when the note cannot be written.
    pub fn keep(&self) -> Result<()> {
        match self.cached {
            true => Ok(()),
            false => self.cache.note(self.id.revision(), &self.commit),
        }
    }

    /// The error of a file that is not in the repository.
    pub fn no_file(&self, file: &str) -> HubError {
        let ending = |name: &str| name.rsplit_once('.').map(|(_, ending)| ending.to_string());
        let asked = ending(file);
        let same = self.files.iter().filter(|name| ending(name) == asked);
        let (repository, revision) = (self.id.repository(), self.id.revision());
        HubError::NoFile {
            repository: format!("{repository} at {revision}"),
            file: file.into(),
            others: same.take(10).cloned().collect(),
        }
    }
}

/// Refuses a listing with names that would lead out of the cache.
fn check(id: &ModelId, listing: &Listing) -> Result<()> {
    let name = match is_commit(&listing.commit) {
        false => Some(&listing.commit),
        true => listing.files.iter().find(|name| !is_inside(name)),
    };
    match name {
        None => Ok(()),
        Some(name) => Err(HubError::UnsafeName {
            source_of: id.to_string(),
            name: name.chars().take(200).collect(),
        }),
    }
}
