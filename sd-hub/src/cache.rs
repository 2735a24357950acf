//! The cache on disk, as the Python tools lay it out (huggingface_hub's `file_download.py`):
//! `models--OWNER--NAME/blobs/ETAG` the contents, `snapshots/COMMIT/FILE` relative links to them,
//! `refs/REVISION` a commit's hash, and `.locks/models--OWNER--NAME/ETAG.lock` beside them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::names::is_commit;
use crate::{HubError, Result};

/// Folders in folders that a repository has at most.
const DEEPEST: usize = 16;

/// The folder of one repository in a cache.
#[derive(Debug, Clone)]
pub(crate) struct CachedRepository {
    folder: PathBuf,
    locks: PathBuf,
}

impl CachedRepository {
    /// The one of `repository` (`OWNER/NAME`) in the folder `cache`; it need not exist.
    pub(crate) fn new(cache: &Path, repository: &str) -> Self {
        let name = format!("models--{}", repository.replace('/', "--"));
        let folder = cache.join(&name);
        let locks = cache.join(".locks").join(name);
        Self { folder, locks }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The content of that etag.
    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// The folder of a commit's files.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The commit that `revision` was of when it was last asked for, if any file of it is here.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        let commit = match is_commit(revision) {
            true => revision.into(),
            false => {
                let text = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
                text.trim().to_string()
            }
        };
        let is_here = is_commit(&commit) && self.snapshot(&commit).is_dir();
        is_here.then_some(commit)
    }

    /// Notes that `revision` is of `commit`. A commit's own hash needs no note.
    pub(crate) fn note(&self, revision: &str, commit: &str) -> Result<()> {
        let path = self.folder.join("refs").join(revision);
        let known = fs::read_to_string(&path).unwrap_or_default();
        if is_commit(revision) || known == commit {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent).map_err(HubError::io(parent))?;
        // Whoever reads it meanwhile reads the old one or the new one.
        let new = parent.join(format!(".{commit}.{}.incomplete", std::process::id()));
        let written = fs::write(&new, commit).and_then(|()| fs::rename(&new, &path));
        written.map_err(|error| {
            let _ = fs::remove_file(&new);
            HubError::io(&path)(error)
        })
    }

    /// Paths of the files of a commit that are here.
    pub(crate) fn files(&self, commit: &str) -> Result<BTreeSet<String>> {
        let mut files = BTreeSet::new();
        let folder = self.snapshot(commit);
        walk(&folder, "", DEEPEST, &mut files).map_err(HubError::io(&folder))?;
        Ok(files)
    }

    /// A lock of the content of that etag, which other processes and the Python tools respect. On
    /// file systems that know no locks there is none; a content that two wrote at once is then found
    /// out by its hash.
    pub(crate) fn lock(&self, etag: &str) -> Result<Option<File>> {
        fs::create_dir_all(&self.locks).map_err(HubError::io(&self.locks))?;
        let path = self.locks.join(format!("{etag}.lock"));
        let mut options = File::options();
        let file = options.create(true).append(true).open(&path);
        let file = file.map_err(HubError::io(&path))?;
        match file.lock() {
            Ok(()) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(None),
            Err(error) => Err(HubError::io(&path)(error)),
        }
    }

    /// Puts the content of that etag under the name `file` into the snapshot of `commit`.
    pub(crate) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<PathBuf> {
        let path = self.snapshot(commit).join(file);
        let parent = path.parent().unwrap_or(&path);
        fs::create_dir_all(parent).map_err(HubError::io(parent))?;
        if path.exists() {
            return Ok(path);
        }
        let depth = file.split('/').count() + 1;
        let target = Path::new(&"../".repeat(depth)).join("blobs").join(etag);
        match put_link(&target, &self.blob(etag), &path) {
            Ok(()) => Ok(path),
            // Somebody else was faster.
            Err(_) if path.exists() => Ok(path),
            Err(error) => Err(HubError::io(&path)(error)),
        }
    }
}

/// Puts a link to `target` at `path`, in place of one that leads nowhere.
#[cfg(unix)]
fn put_link(target: &Path, _: &Path, path: &Path) -> io::Result<()> {
    if path.is_symlink() {
        fs::remove_file(path)?;
    }
    std::os::unix::fs::symlink(target, path)
}

/// A system that lets not everybody make links: without, it is a second name of the same file, or
/// a copy.
#[cfg(not(unix))]
fn put_link(target: &Path, blob: &Path, path: &Path) -> io::Result<()> {
    if path.is_symlink() {
        fs::remove_file(path)?;
    }
    #[cfg(windows)]
    if std::os::windows::fs::symlink_file(target, path).is_ok() {
        return Ok(());
    }
    let _ = target;
    if fs::hard_link(blob, path).is_ok() {
        return Ok(());
    }
    let new = path.with_added_extension("incomplete");
    fs::copy(blob, &new)?;
    fs::rename(&new, path)
}

/// Collects the files in `folder`, whose path from the root is `inside`. Links count as files.
fn walk(
    folder: &Path,
    inside: &str,
    deeper: usize,
    files: &mut BTreeSet<String>,
) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = match inside {
            "" => name,
            inside => format!("{inside}/{name}"),
        };
        if !entry.file_type()?.is_dir() {
            files.insert(path);
        } else if deeper > 0 {
            walk(&entry.path(), &path, deeper - 1, files)?;
        }
    }
    Ok(())
}
