//! The bytes of a file, read by their place.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use bytes::Bytes;

/// Content of a file on disk or in memory.
// Read and not memory-mapped: burn-store's map parses the whole header again for every tensor (7 s
// for the 1680 of an SDXL U-Net), its pages count as the program's memory, and a file that is cut
// short meanwhile would end the program with a signal instead of an error.
#[derive(Clone)]
pub(super) enum Content {
    /// The file and its size when it was opened.
    File(Arc<File>, u64),
    Memory(Bytes),
}

impl Content {
    /// Number of bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::File(_, len) => *len,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Fills `to` with the bytes from `offset` on. A file that was cut short since it was opened
    /// gives an error.
    pub(super) fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File(file, _) => read_exact_at(file, to, offset),
            Self::Memory(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let bytes = from
                    .checked_add(to.len())
                    .and_then(|end| bytes.get(from..end));
                to.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }

    /// The bytes from `start` to `end`, one after the other.
    pub(super) fn stream(&self, start: u64, end: u64) -> Stream<'_> {
        let section = Section {
            content: self,
            at: start,
            end: end.min(self.len()),
        };
        Stream(BufReader::with_capacity(1 << 16, section))
    }
}

/// A part of a file, read from its beginning to its end.
pub(super) struct Stream<'a>(BufReader<Section<'a>>);

struct Section<'a> {
    content: &'a Content,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let len = (to.len() as u64).min(self.end.saturating_sub(self.at)) as usize;
        self.content.read_at(self.at, &mut to[..len])?;
        self.at += len as u64;
        Ok(len)
    }
}

impl Stream<'_> {
    /// Place of the next byte in the file.
    pub(super) fn position(&self) -> u64 {
        self.0.get_ref().at - self.0.buffer().len() as u64
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> u64 {
        self.0.get_ref().end.saturating_sub(self.position())
    }

    pub(super) fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// The next `len` bytes. Nothing is allocated when there are not so many.
    pub(super) fn bytes(&mut self, len: u64) -> io::Result<Vec<u8>> {
        if len > self.left() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; len as usize];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Passes over the next `len` bytes.
    pub(super) fn skip(&mut self, len: u64) -> io::Result<()> {
        if len > self.left() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        io::copy(&mut self.0.by_ref().take(len), &mut io::sink())?;
        Ok(())
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.read(to)
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, to: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, to, offset)
}

#[cfg(not(unix))]
fn read_exact_at(mut file: &File, to: &mut [u8], offset: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    use std::sync::{Mutex, PoisonError};

    // A file has one position for all threads.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(to)
}
