use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// No JSON file of a model is larger: CLIP's `tokenizer.json` has 4 MB.
const MAX_SIZE: u64 = 64 << 20;

/// A file's name relative to a model's folder, with `/`, and its bytes.
pub type EmbeddedFile = (&'static str, &'static [u8]);

/// Files of a model: a folder in diffusers layout, on disk or in memory.
#[derive(Debug, Clone)]
pub struct Files {
    root: Root,
    /// On disk the folder itself, in memory the path within the model, for messages and look-up.
    folder: PathBuf,
}

#[derive(Clone)]
enum Root {
    Disk,
    /// By the names within the model.
    Memory(Arc<BTreeMap<String, Bytes>>),
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Disk => f.write_str("Disk"),
            Self::Memory(files) => f.debug_set().entries(files.keys()).finish(),
        }
    }
}

/// One file as it is found: not yet read on disk.
#[derive(Debug, Clone)]
pub(crate) enum Located {
    Disk(PathBuf),
    Memory(PathBuf, Bytes),
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
        let files = files.map(|(name, bytes)| (name.into(), bytes.into()));
        Self {
            root: Root::Memory(Arc::new(files.collect())),
            folder: PathBuf::new(),
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

    /// `true` when there is a file `name` in this folder.
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
            Root::Disk => path.is_file().then_some(Located::Disk(path)),
            Root::Memory(files) => {
                let bytes = files.get(&path.to_string_lossy().replace('\\', "/"))?;
                Some(Located::Memory(path, bytes.clone()))
            }
        }
    }

    /// The whole content of a small file.
    ///
    /// # Errors
    /// [`Error::Io`] when the file is not there, cannot be read or has more than 64 MB.
    pub fn read(&self, name: &str) -> Result<Bytes> {
        let io = |source| Error::Io {
            path: self.path(name),
            source,
        };
        match self.locate(name) {
            None => Err(io(io::ErrorKind::NotFound.into())),
            Some(Located::Memory(_, bytes)) => Ok(bytes),
            Some(Located::Disk(path)) => read_capped(&path).map(Bytes::from).map_err(io),
        }
    }

    /// A JSON file as `T`.
    ///
    /// # Errors
    /// [`Error::Io`] as [`read`](Self::read); [`Error::Json`] when it is not JSON, is nested more
    /// than 128 levels deep or does not have the form of `T`.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_slice(&self.read(name)?).map_err(|source| Error::Json {
            path: self.path(name),
            source,
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
