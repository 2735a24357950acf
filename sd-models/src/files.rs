use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::{Error, FileKind, Result, TensorSource};

/// No JSON file of a model is larger: CLIP's `tokenizer.json` has 4 MB.
const MAX_SIZE: u64 = 64 << 20;

/// A file's name relative to a model's folder, with `/`, and its bytes.
pub type EmbeddedFile = (&'static str, &'static [u8]);

/// Files of a model that lie elsewhere and come to a folder of this machine one by one, as they are
/// read.
pub trait RemoteFiles: std::fmt::Debug + Send + Sync {
    /// The folder that they come to. It need not exist.
    fn folder(&self) -> &Path;

    /// Their names within the model, with `/`.
    fn names(&self) -> &BTreeSet<String>;

    /// Brings the file `name`, one of [`names`](Self::names), to its place in the folder, if it is
    /// not there yet.
    ///
    /// # Errors
    /// Any; it becomes that of whoever reads the file, [`Error::Remote`].
    fn fetch(&self, name: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Files of a model: a folder in diffusers layout, on disk, in memory or on the way there.
#[derive(Debug, Clone)]
pub struct Files {
    root: Root,
    /// On disk or on the way there the folder itself, in memory the path within the model, for
    /// messages and look-up.
    folder: PathBuf,
}

#[derive(Clone)]
enum Root {
    Disk,
    /// By the names within the model.
    Memory(Arc<BTreeMap<String, Entry>>),
    Remote(Arc<dyn RemoteFiles>),
}

/// One of the files in memory.
#[derive(Clone)]
pub(crate) enum Entry {
    Bytes(Bytes),
    /// Weights that lie elsewhere: a part of another file.
    Tensors(Arc<dyn TensorSource>),
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Disk => f.write_str("Disk"),
            Self::Memory(files) => f.debug_set().entries(files.keys()).finish(),
            Self::Remote(files) => files.fmt(f),
        }
    }
}

/// One file as it is found: not yet read on disk.
#[derive(Clone)]
pub(crate) enum Located {
    Disk(PathBuf),
    Memory(PathBuf, Bytes),
    Tensors(Arc<dyn TensorSource>),
    /// The file's path on disk, and its name among those that come there.
    Remote(PathBuf, Arc<dyn RemoteFiles>, String),
}

impl Located {
    /// The same file, brought to its place where it is not there yet.
    pub(crate) fn here(self) -> Result<Self> {
        if let Self::Remote(path, files, name) = &self {
            let path = path.clone();
            let fetched = files.fetch(name);
            fetched.map_err(|source| Error::Remote { path, source })?;
        }
        Ok(self)
    }
}

impl Files {
    /// The files of a folder on disk. Nothing is read yet; a folder that does not exist is an
    /// error of the first file that is.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self {
            root: Root::Disk,
            folder: path.into(),
        }
    }

    /// Files that are part of the program, by their names within the model:
    /// `("unet/config.json", include_bytes!(…))`.
    pub fn embedded(files: &'static [EmbeddedFile]) -> Self {
        Self::memory(files.iter().map(|&(name, bytes)| (name, bytes)))
    }

    /// Files that the program has read or made, by their names within the model, with `/`. The
    /// bytes are shared, not copied.
    pub fn memory<N: Into<String>, B: Into<Bytes>>(
        files: impl IntoIterator<Item = (N, B)>,
    ) -> Self {
        let files = files.into_iter();
        let files = files.map(|(name, bytes)| (name.into(), Entry::Bytes(bytes.into())));
        Self::entries(files.collect())
    }

    /// Files by their names within the model.
    pub(crate) fn entries(files: BTreeMap<String, Entry>) -> Self {
        Self {
            root: Root::Memory(Arc::new(files)),
            folder: PathBuf::new(),
        }
    }

    /// Files that come to a folder of this machine as they are read: weights when their header is,
    /// which is before anything of them is in memory.
    pub fn remote(files: Arc<dyn RemoteFiles>) -> Self {
        Self {
            folder: files.folder().into(),
            root: Root::Remote(files),
        }
    }

    /// The files of a sub-folder. It need not exist: see [`has`](Self::has).
    pub fn folder(&self, name: &str) -> Self {
        Self {
            root: self.root.clone(),
            folder: self.folder.join(name),
        }
    }

    /// Name of the file `name` in messages: its path on disk, or within the model.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Names of the files and folders in this folder, sorted; none where it does not exist.
    pub fn names(&self) -> Vec<String> {
        let names: BTreeSet<String> = match &self.root {
            Root::Disk => {
                let entries = std::fs::read_dir(&self.folder).into_iter().flatten();
                let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
                names.collect()
            }
            Root::Memory(files) => {
                let names = files.keys().filter_map(|name| {
                    let name = Path::new(name).strip_prefix(&self.folder).ok()?;
                    name.iter().next()?.to_str().map(String::from)
                });
                names.collect()
            }
            Root::Remote(files) => {
                let within = self.folder.strip_prefix(files.folder());
                let within = within.unwrap_or(&self.folder);
                let names = files.names().iter().filter_map(|name| {
                    let name = Path::new(name).strip_prefix(within).ok()?;
                    name.iter().next()?.to_str().map(String::from)
                });
                names.collect()
            }
        };
        names.into_iter().collect()
    }

    /// The folder's path, when it is one on disk, or files come to one.
    pub fn on_disk(&self) -> Option<&Path> {
        match self.root {
            Root::Disk | Root::Remote(_) => Some(&self.folder),
            Root::Memory(_) => None,
        }
    }

    /// `true` when there is a file `name` in this folder. A link that leads nowhere is one: to
    /// read it is an error, and not the same as that it was not there.
    pub fn has(&self, name: &str) -> bool {
        self.locate(name).is_some()
    }

    /// Finds a file without reading it. Names with a folder in them are not found: they may come
    /// from a file that somebody else wrote, and must not lead out of this one.
    pub(crate) fn locate(&self, name: &str) -> Option<Located> {
        if !is_plain(name) {
            return None;
        }
        let path = self.path(name);
        match &self.root {
            Root::Disk => {
                let is_there = path.is_file() || (path.is_symlink() && !path.exists());
                is_there.then_some(Located::Disk(path))
            }
            Root::Memory(files) => {
                let entry = files.get(&path.to_string_lossy().replace('\\', "/"))?;
                Some(match entry.clone() {
                    Entry::Bytes(bytes) => Located::Memory(path, bytes),
                    Entry::Tensors(source) => Located::Tensors(source),
                })
            }
            Root::Remote(files) => {
                let name = path.strip_prefix(files.folder()).ok()?;
                let name = name.to_string_lossy().replace('\\', "/");
                let is_there = files.names().contains(&name);
                is_there.then(|| Located::Remote(path, files.clone(), name))
            }
        }
    }

    /// The whole content of a small file.
    ///
    /// # Errors
    /// [`Error::Io`] when the file is not there, cannot be read or has more than 64 MB;
    /// [`Error::BrokenLink`] when it is a link to one that is not there; [`Error::Remote`] when it
    /// is elsewhere and does not come.
    pub fn read(&self, name: &str) -> Result<Bytes> {
        let io = |source| Error::io(self.path(name), source);
        match self.locate(name).map(Located::here).transpose()? {
            Some(Located::Memory(_, bytes)) => Ok(bytes),
            Some(Located::Disk(path) | Located::Remote(path, ..)) => {
                read_capped(&path).map(Bytes::from).map_err(io)
            }
            // Weights are no small file.
            Some(Located::Tensors(_)) => Err(io(io::ErrorKind::FileTooLarge.into())),
            None => Err(io(io::ErrorKind::NotFound.into())),
        }
    }

    /// The whole content of a small text file.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`Error::Kind`] when it is not text, or stands for a file that was
    /// not fetched: a Git LFS pointer, a web page.
    pub fn text(&self, name: &str) -> Result<String> {
        let bytes = self.read(name)?;
        let found = FileKind::of_bytes(&bytes);
        match str::from_utf8(&bytes) {
            Ok(text) if !found.is_foreign() => Ok(text.into()),
            _ => Err(Error::Kind {
                path: self.path(name),
                found,
                expected: "text in UTF-8",
            }),
        }
    }

    /// A JSON file as `T`.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`Error::Json`] when it is not JSON, is nested more than 128 levels
    /// deep or does not have the form of `T`; [`Error::Kind`] when it stands for a file that was
    /// not fetched: a Git LFS pointer, a web page.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let bytes = self.read(name)?;
        serde_json::from_slice(&bytes).map_err(|source| {
            let (path, found) = (self.path(name), FileKind::of_bytes(&bytes));
            match found.is_foreign() {
                true => Error::Kind {
                    path,
                    found,
                    expected: "JSON",
                },
                false => Error::Json { path, source },
            }
        })
    }
}

/// `true` when `name` is that of a file in this folder and nothing else.
pub(crate) fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}

fn read_capped(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // The length is checked while reading, since not every file knows its own.
    File::open(path)?
        .take(MAX_SIZE + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SIZE {
        let message = "the file is too large, expected at most 64 MB";
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}
