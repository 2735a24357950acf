//! Fingerprints of models' weights and of pictures.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use image::ImageBuffer;

use crate::Opaque;

/// Places of a file that are read, and bytes at each: a model of gigabytes takes milliseconds.
const PLACES: u64 = 64;
const BYTES: u64 = 4096;

/// Short hash of the weights in a model's folder or file, made when it is first asked for.
///
/// It is FNV-1a (Fowler, Noll & Vo) of the names and lengths of the safetensors files and of samples
/// of them, so it tells models apart and proves nothing. A file that cannot be read has none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fingerprint {
    folder: Option<PathBuf>,
    known: Arc<OnceLock<Option<String>>>,
}

impl Fingerprint {
    pub(crate) fn new(folder: Option<&Path>) -> Self {
        Self {
            folder: folder.map(Into::into),
            known: Arc::default(),
        }
    }

    /// The hash, in ten digits.
    pub(crate) fn get(&self) -> Option<String> {
        let hash = || hash(self.folder.as_deref()?).ok()?;
        self.known.get_or_init(hash).clone()
    }
}

/// `None` for a folder without weights.
fn hash(path: &Path) -> io::Result<Option<String>> {
    let (mut files, mut folder) = (Vec::new(), path);
    if path.is_file() {
        files.push(path.into());
        folder = path.parent().unwrap_or(path);
    } else {
        files.extend(weights(folder)?);
        for component in fs::read_dir(folder)? {
            let component = component?.path();
            if component.is_dir() {
                files.extend(weights(&component)?);
            }
        }
    }
    files.sort();
    let mut hash = START;
    let mut add = |bytes: &[u8]| hash = fnv(hash, bytes);
    for path in &files {
        let name = path.strip_prefix(folder).unwrap_or(path);
        add(name.to_string_lossy().replace('\\', "/").as_bytes());
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        add(&length.to_le_bytes());
        let last = length.saturating_sub(BYTES);
        for k in 0..PLACES {
            // The first and the last bytes are among them.
            let place = u128::from(last) * u128::from(k) / u128::from(PLACES - 1);
            file.seek(SeekFrom::Start(place as u64))?;
            let mut sample = Vec::new();
            file.by_ref().take(BYTES).read_to_end(&mut sample)?;
            add(&sample);
        }
    }
    Ok((!files.is_empty()).then(|| digits(hash)))
}

/// Short hash of a picture's pixels.
pub(super) fn of_picture<P: Opaque>(picture: &ImageBuffer<P, Vec<u8>>) -> String {
    let size = [picture.width(), picture.height()].map(u32::to_le_bytes);
    digits(fnv(fnv(START, size.as_flattened()), picture.as_raw()))
}

const START: u64 = 0xCBF2_9CE4_8422_2325;

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3);
    bytes.iter().fold(hash, add)
}

/// Ten digits, as A1111's hashes have, which are others.
fn digits(hash: u64) -> String {
    format!("{:010x}", hash >> 24)
}

fn weights(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|ending| ending == "safetensors")
            && path.is_file()
        {
            files.push(path);
        }
    }
    Ok(files)
}
