//! The place that something is written to: whole, or not at all.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::model_path::INDEX;
use crate::{Error, Result};

/// A path that may be written to.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    parent: PathBuf,
    /// What is there already and may be replaced.
    old: Option<Old>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Old {
    File,
    /// An empty one, or a model's.
    Folder,
}

impl Place {
    /// The path `output`, which has nothing to do with `input`. What is there already must be an
    /// empty folder; with `overwrite` it may be a safetensors file or a model's folder.
    pub(super) fn check(input: &Path, output: &Path, overwrite: bool) -> Result<Self> {
        let wrong = |reason: &str| Err(Error::output(output, reason));
        if output.file_name().is_none() {
            return wrong("it names no file or folder");
        }
        let parent = match output.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let parent = parent.canonicalize().map_err(Error::io(parent))?;
        let old = match fs::symlink_metadata(output) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io(output)(e)),
            Ok(_) => {
                if is_same(input, output) {
                    return wrong("the model that is read is there; expected another place");
                }
                Some(replaceable(output, overwrite)?)
            }
        };
        Ok(Self {
            path: output.into(),
            parent,
            old,
        })
    }

    /// Writes a file by `write`, which is told what errors call it.
    pub(super) fn file<T>(
        &self,
        write: impl FnOnce(&mut dyn Write, &Path) -> Result<T>,
    ) -> Result<T> {
        if self.old == Some(Old::Folder) {
            return Err(Error::output(
                &self.path,
                "a folder is there; expected a file's name",
            ));
        }
        let io = |e| Error::io(&self.path)(e);
        let file = builder(0o666).tempfile_in(&self.parent).map_err(io)?;
        let mut buffered = BufWriter::with_capacity(1 << 20, file);
        let written = write(&mut buffered, &self.path)?;
        let file = buffered.into_inner().map_err(|e| io(e.into_error()))?;
        file.as_file().sync_all().map_err(io)?;
        let placed = match self.old {
            Some(_) => file.persist(&self.path),
            None => file.persist_noclobber(&self.path),
        };
        placed.map_err(|e| io(e.error))?;
        Ok(written)
    }

    /// Writes a folder by `write`, which is told the path of an empty one.
    pub(super) fn folder<T>(&self, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        if self.old == Some(Old::File) {
            return Err(Error::output(
                &self.path,
                "a file is there; expected a folder's name",
            ));
        }
        let io = |e| Error::io(&self.path)(e);
        let folder = builder(0o777).tempdir_in(&self.parent).map_err(io)?;
        let new = folder.path().join("new");
        fs::create_dir(&new).map_err(io)?;
        let written = write(&new)?;
        if self.old.is_some() {
            // Goes with the temporary folder.
            let old = folder.path().join("old");
            fs::rename(&self.path, &old).map_err(io)?;
            if let Err(error) = fs::rename(&new, &self.path) {
                let _ = fs::rename(&old, &self.path);
                return Err(io(error));
            }
        } else {
            fs::rename(&new, &self.path).map_err(io)?;
        }
        Ok(written)
    }
}

/// Temporary names, as readable as the umask leaves `mode`; by themselves they are not.
#[cfg_attr(not(unix), expect(unused_variables))]
fn builder(mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".convert-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    builder
}

/// `true` where one path leads to the other, or into it.
fn is_same(input: &Path, output: &Path) -> bool {
    let [input, output] = [input, output].map(|path| path.canonicalize().ok());
    let (Some(input), Some(output)) = (input, output) else {
        return false;
    };
    input.starts_with(&output) || output.starts_with(&input)
}

/// What is at `path`, if it may be replaced.
fn replaceable(path: &Path, overwrite: bool) -> Result<Old> {
    let is_folder = path.is_dir() && !path.is_symlink();
    let is_empty = is_folder && fs::read_dir(path).is_ok_and(|mut names| names.next().is_none());
    let old = if is_folder { Old::Folder } else { Old::File };
    let is_model = path.join(INDEX).is_file();
    let is_file = path.is_file() && path.extension().is_some_and(|end| end == "safetensors");
    let reason = match (is_empty, overwrite, is_model && is_folder || is_file) {
        (true, ..) | (_, true, true) => return Ok(old),
        (_, true, false) => {
            "something else than a model is there, which is not replaced; expected another name"
        }
        (_, false, true) => "a model is there; overwrite it, or expected another name",
        (_, false, false) => "it is there already; expected another name",
    };
    Err(Error::output(path, reason))
}
