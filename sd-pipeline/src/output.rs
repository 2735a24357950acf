//! Places of files to be written: regular files, devices, pipes, links to any of them.

use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Error as IoError, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Place of a file to be written, looked at before the work whose result goes there.
///
/// What is written here goes where a shell's `>` would put it. A link is followed. A device or a
/// pipe is written to. A regular file is replaced as a whole by a new one beside it, which gets the
/// old one's mode, so that nobody ever sees half of it; only where its folder admits no new file
/// (it is read-only, or the file a mount of its own) the old one is overwritten.
#[derive(Debug)]
pub struct OutputFile {
    /// The place without links: nothing, a regular file, or a stream.
    target: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    New,
    Regular(Metadata),
    /// A device or a pipe.
    Stream(Metadata),
    /// A regular file that this process has open and knows by its number (`/dev/stdout`): it goes
    /// on where it is.
    Open(Metadata),
}

/// Links that may lead to one another, as many as Linux follows.
const LINKS: usize = 40;

impl OutputFile {
    /// The place at `path`, if a file can be written there. Leaves all as it is; a pipe and a device
    /// are not opened, for that alone may have an effect.
    ///
    /// # Errors
    /// [`Error::Io`] with the reason where nothing can be written.
    pub fn new(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let find = || {
            let place = Self::find(path)?;
            place.check()?;
            Ok(place)
        };
        find().map_err(Error::io(path))
    }

    /// `true` for a device, a pipe or an open file: what is written goes behind what was written
    /// before.
    pub fn is_stream(&self) -> bool {
        matches!(self.kind, Kind::Stream(_) | Kind::Open(_))
    }

    /// `true` if what is written to both would overwrite or mingle, however they are spelt. A device
    /// takes what comes.
    pub fn same_as(&self, other: &Self) -> bool {
        let devices = [self, other].map(|place| match &place.kind {
            Kind::Stream(found) => is_device(found),
            _ => false,
        });
        devices != [true; 2] && (self.target == other.target || self.same_node(other))
    }

    /// Writes `bytes` to `path`.
    pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
        let write = || {
            let place = Self::find(path)?;
            match &place.kind {
                Kind::New => place.replace(bytes, None),
                Kind::Regular(old) => {
                    place.check()?;
                    match place.replace(bytes, Some(old)) {
                        Err(e) if folder_refuses(&e) => place.overwrite(bytes),
                        written => written,
                    }
                }
                Kind::Stream(_) => open(&place.target)?.write_all(bytes),
                Kind::Open(_) => {
                    let mut file = OpenOptions::new().append(true).open(&place.target)?;
                    file.write_all(bytes)
                }
            }
        };
        write().map_err(Error::io(path))
    }

    fn find(path: &Path) -> io::Result<Self> {
        let wrong = |reason: &str| Err(IoError::new(ErrorKind::InvalidInput, reason));
        let mut target = path.to_path_buf();
        for _ in 0..LINKS {
            let found = match fs::symlink_metadata(&target) {
                Err(e) if e.kind() == ErrorKind::NotFound => None,
                found => Some(found?),
            };
            if found.as_ref().is_some_and(Metadata::is_dir) {
                return wrong("it is a folder");
            }
            let Some(name) = target.file_name().map(ToOwned::to_owned) else {
                return wrong("it names no file");
            };
            let end = target.as_os_str().as_encoded_bytes().last().copied();
            if end.is_some_and(|end| std::path::is_separator(end.into())) {
                return wrong("it names a folder, which does not exist");
            }
            let folder = folder(&target)?;
            target = folder.join(name);
            let Some(found) = found else {
                return Ok(Self {
                    target,
                    kind: Kind::New,
                });
            };
            let open = folder.starts_with("/proc");
            if !found.is_symlink() || open {
                // A link of /proc names no place, it is the file.
                let found = fs::metadata(&target)?;
                let kind = match found.is_file() {
                    true if open => Kind::Open(found),
                    true => Kind::Regular(found),
                    false if found.is_dir() => return wrong("it is a folder"),
                    false => Kind::Stream(found),
                };
                return Ok(Self { target, kind });
            }
            target = folder.join(fs::read_link(&target)?);
        }
        wrong("too many links lead to one another")
    }

    fn check(&self) -> io::Result<()> {
        match &self.kind {
            Kind::New => temporary(&self.target).map(drop),
            Kind::Regular(old) | Kind::Open(old) => {
                // Root could write to it all the same; who made it read-only meant it.
                if old.permissions().readonly() {
                    let reason = "the file there is read-only";
                    return Err(IoError::new(ErrorKind::PermissionDenied, reason));
                }
                open(&self.target).map(drop)
            }
            Kind::Stream(_) => Ok(()),
        }
    }

    /// Writes next to the target and renames.
    fn replace(&self, bytes: &[u8], old: Option<&Metadata>) -> io::Result<()> {
        let mut file = temporary(&self.target)?;
        file.write_all(bytes)?;
        if let Some(old) = old {
            #[cfg(unix)]
            {
                use std::os::unix::fs::{MetadataExt, fchown};
                // Only root may give a file away, and whoever else replaces it then owns it.
                let _ = fchown(file.as_file(), Some(old.uid()), Some(old.gid()));
            }
            file.as_file().set_permissions(old.permissions())?;
        }
        file.persist(&self.target)?;
        Ok(())
    }

    fn overwrite(&self, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).truncate(true);
        options.open(&self.target)?.write_all(bytes)
    }

    #[cfg(unix)]
    fn same_node(&self, other: &Self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let node = |place: &Self| match &place.kind {
            Kind::New => None,
            Kind::Regular(found) | Kind::Stream(found) | Kind::Open(found) => {
                Some((found.dev(), found.ino()))
            }
        };
        node(self).is_some() && node(self) == node(other)
    }

    #[cfg(not(unix))]
    fn same_node(&self, _other: &Self) -> bool {
        false
    }
}

/// The folder of `path`, without links.
fn folder(path: &Path) -> io::Result<PathBuf> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let missing = |e: IoError| match e.kind() {
        ErrorKind::NotFound => {
            let reason = format!("the folder {} does not exist", folder.display());
            IoError::new(ErrorKind::NotFound, reason)
        }
        _ => e,
    };
    folder.canonicalize().map_err(missing)
}

/// A file beside `target`, gone when it is dropped.
fn temporary(target: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    // As readable as any other new file, that is as the umask says; a temporary one is not.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder(target)?)
}

fn open(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().write(true).open(path)
}

/// Says whether the folder takes no new file, or not this one in the old one's place.
fn folder_refuses(error: &IoError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::ResourceBusy
            | ErrorKind::CrossesDevices
    )
}

#[cfg(unix)]
fn is_device(found: &Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    found.file_type().is_char_device()
}

#[cfg(not(unix))]
fn is_device(_found: &Metadata) -> bool {
    true
}
