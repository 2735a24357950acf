//! One file's way into the cache.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::digest::Hash;
use crate::{Body, Hub, HubError, Metadata, Progress, Result};

/// Bytes that are read at once.
const PIECE: usize = 128 << 10;

/// A file that is on its way: which, and what the hub says of it.
pub(crate) struct Download<'a> {
    pub(crate) hub: &'a Hub,
    pub(crate) repository: &'a str,
    pub(crate) commit: &'a str,
    pub(crate) file: &'a str,
    pub(crate) metadata: &'a Metadata,
}

/// What there is of a file: its bytes on disk, and their hash.
struct Part {
    path: PathBuf,
    file: File,
    length: u64,
    hash: Option<Hash>,
}

impl Download<'_> {
    /// Fetches the content to `blob`, which is not there; whoever calls holds its lock. What there
    /// is of it lies in `ETAG.incomplete` beside it until it is whole, sound and gets its name.
    ///
    /// # Errors
    /// As [`Repository::fetch`](crate::Repository::fetch).
    pub(crate) fn to(&self, blob: &Path) -> Result<()> {
        let mut path = blob.as_os_str().to_owned();
        path.push(".incomplete");
        let path = PathBuf::from(path);
        let fresh = || Hash::of(&self.metadata.etag, self.metadata.size);
        let mut part = Part::open(path, fresh())?;
        let mut resumed = part.length > 0;
        loop {
            let fault = match self.fill(&mut part) {
                Ok(()) => match self.check(&part) {
                    Ok(()) => break,
                    fault => fault,
                },
                fault => fault,
            };
            match fault {
                // The beginning may be another's. Whatever is fetched now is of one piece.
                Err(
                    HubError::Size { .. }
                    | HubError::Hash { .. }
                    | HubError::Status { status: 416, .. },
                ) if resumed => {
                    resumed = false;
                    part.clear(fresh())?;
                }
                Err(fault @ (HubError::Size { .. } | HubError::Hash { .. })) => {
                    drop(part.file);
                    fs::remove_file(&part.path).map_err(HubError::io(&part.path))?;
                    return Err(fault);
                }
                fault => return fault,
            }
        }
        part.file.sync_all().map_err(HubError::io(&part.path))?;
        drop(part.file);
        fs::rename(&part.path, blob).map_err(HubError::io(blob))
    }

    /// Reads until the file is whole, as often as it takes.
    fn fill(&self, part: &mut Part) -> Result<()> {
        self.tell(part.length)?;
        let mut had = part.length;
        let mut failed = 0;
        while self.metadata.size.is_none_or(|size| part.length < size) {
            match self.read(part) {
                Ok(()) => break,
                Err(fault) if fault.is_temporary() => {
                    // Who brought something may go on for as long as it takes.
                    failed = if part.length > had { 1 } else { failed + 1 };
                    had = part.length;
                    self.hub.pause(failed, fault)?;
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// Asks for the rest once, and reads as much of it as comes.
    fn read(&self, part: &mut Part) -> Result<()> {
        let Self { hub, file, .. } = *self;
        let client = &hub.client;
        let Body {
            from,
            total,
            mut bytes,
        } = client.read(self.repository, self.commit, file, part.length)?;
        if from == 0 && part.length > 0 {
            part.clear(Hash::of(&self.metadata.etag, self.metadata.size))?;
        }
        let network = |reason: String| HubError::Network {
            url: file.into(),
            reason,
        };
        if from != part.length {
            let (asked, url) = (part.length, file.into());
            let reason = format!("the answer begins at byte {from}, not at {asked}");
            return Err(HubError::Reply { url, reason });
        }
        let size = |found: u64| match self.metadata.size {
            Some(expected) if expected != found => Err(HubError::Size {
                file: file.into(),
                expected,
                found,
            }),
            _ => Ok(()),
        };
        total.map_or(Ok(()), size)?;
        let expected = self.metadata.size.or(total);
        let mut buffer = vec![0; PIECE];
        loop {
            let count = match bytes.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(network(error.to_string())),
            };
            if expected.is_some_and(|expected| part.length + count as u64 > expected) {
                size(part.length + count as u64)?;
            }
            part.add(&buffer[..count])?;
            self.tell(part.length)?;
        }
        match expected {
            Some(expected) if part.length < expected => {
                let length = part.length;
                let reason = format!("the connection ended after {length} of {expected} bytes");
                Err(network(reason))
            }
            _ => Ok(()),
        }
    }

    /// Checks what was read: by its size and its hash, of which one at least has to be known.
    fn check(&self, part: &Part) -> Result<()> {
        let Metadata { etag, size } = self.metadata;
        let file = || self.file.to_string();
        match *size {
            Some(expected) if expected != part.length => {
                return Err(HubError::Size {
                    file: file(),
                    expected,
                    found: part.length,
                });
            }
            None if part.hash.is_none() => {
                let reason = "the hub says neither size nor hash".into();
                return Err(HubError::Reply {
                    url: file(),
                    reason,
                });
            }
            _ => {}
        }
        let checked = part.hash.clone().map_or(Ok(()), |hash| hash.check(etag));
        checked.map_err(|found| HubError::Hash {
            file: file(),
            expected: etag.clone(),
            found,
        })
    }

    fn tell(&self, done: u64) -> Result<()> {
        let progress = Progress {
            file: self.file,
            done,
            total: self.metadata.size,
        };
        match self.hub.progress.as_ref().map(|tell| tell(&progress)) {
            Some(ControlFlow::Break(())) => Err(HubError::Stopped {
                file: self.file.into(),
            }),
            _ => Ok(()),
        }
    }
}

impl Part {
    /// What an earlier download left at `path`, with `hash` of it.
    fn open(path: PathBuf, mut hash: Option<Hash>) -> Result<Self> {
        let fault = |error| HubError::io(&path)(error);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(HubError::io(parent))?;
        }
        let mut options = File::options();
        let file = options.create(true).truncate(false).read(true).write(true);
        let mut file = file.open(&path).map_err(fault)?;
        let mut length = 0;
        let mut buffer = vec![0; PIECE];
        loop {
            let count = file.read(&mut buffer).map_err(fault)?;
            if count == 0 {
                break;
            }
            length += count as u64;
            if let Some(hash) = &mut hash {
                hash.update(&buffer[..count]);
            }
        }
        Ok(Self {
            path,
            file,
            length,
            hash,
        })
    }

    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(HubError::io(&self.path))?;
        self.length += bytes.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        Ok(())
    }

    /// Begins again, with `hash` of nothing.
    fn clear(&mut self, hash: Option<Hash>) -> Result<()> {
        let emptied = self.file.set_len(0);
        let emptied = emptied.and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(HubError::io(&self.path))?;
        self.length = 0;
        self.hash = hash;
        Ok(())
    }
}
