use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// No JSON file of a model is larger: CLIP's `tokenizer.json` has 4 MB.
const MAX_SIZE: u64 = 64 << 20;

/// A file's name relative to a model's folder, with `/`, and its bytes.
pub type EmbeddedFile = (&'static str, &'static [u8]);

/// Where a model's files come from: a folder in diffusers layout, on disk or embedded in the
/// program.
#[derive(Debug, Clone)]
pub struct Files {
    root: Root,
    /// On disk the folder itself, embedded the path within the model, for messages and look-up.
    folder: PathBuf,
}

#[derive(Debug, Clone, Copy)]
enum Root {
    Disk,
    Embedded(&'static [EmbeddedFile]),
}

/// One file as it is found: not yet read on disk, already in memory when embedded.
#[derive(Debug, Clone)]
pub(crate) enum Located {
    Disk(PathBuf),
    Embedded(PathBuf, &'static [u8]),
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
        Self {
            root: Root::Embedded(files),
            folder: PathBuf::new(),
        }
    }

    /// The files of a sub-folder. It need not exist: see [`has`](Self::has).
    pub fn folder(&self, name: &str) -> Self {
        Self {
            root: self.root,
            folder: self.folder.join(name),
        }
    }

    /// How messages name the file `name`: its path on disk, or within the embedded model.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Whether there is a file `name` in this folder.
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
        match self.root {
            Root::Disk => path.is_file().then_some(Located::Disk(path)),
            Root::Embedded(files) => {
                let wanted = path.to_string_lossy().replace('\\', "/");
                let (_, bytes) = files.iter().find(|(name, _)| *name == wanted)?;
                Some(Located::Embedded(path, bytes))
            }
        }
    }

    /// The whole content of a small file.
    ///
    /// # Errors
    /// [`Error::Io`] when the file is not there, cannot be read or has more than 64 MB.
    pub fn read(&self, name: &str) -> Result<Cow<'static, [u8]>> {
        let io = |source| Error::Io {
            path: self.path(name),
            source,
        };
        match self.locate(name) {
            None => Err(io(io::ErrorKind::NotFound.into())),
            Some(Located::Embedded(_, bytes)) => Ok(bytes.into()),
            Some(Located::Disk(path)) => read_capped(&path).map(Cow::Owned).map_err(io),
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

/// Whether `name` is that of a file in this folder and nothing else.
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
