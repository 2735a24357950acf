//! Kinds of files that people have where a model's files should be.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// A Git LFS pointer has at most this many bytes, and every other kind shows in fewer.
const BEGINNING: usize = 1024;

/// First lines of a Git LFS pointer, today's and the oldest.
const LFS: [&str; 2] = ["version https://git-lfs", "version https://hawser"];

const PAGES: [&str; 6] = ["<!doctype", "<html", "<head", "<body", "<?xml", "<!--"];

/// Kind of a file, by how it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// No byte at all.
    Empty,
    /// The few lines that stand in a repository for a large file that was not fetched.
    LfsPointer {
        /// Bytes that the file itself has, as the pointer says.
        size: Option<u64>,
    },
    /// HTML or XML: a server's answer in place of the file.
    WebPage,
    /// A checkpoint as torch writes it: pickled, in a zip archive or without.
    Torch,
    /// Quantised weights in one file.
    Gguf,
    /// A network in ONNX's format; told by the file's name alone.
    Onnx,
    /// A file that is compressed as a whole.
    Gzip,
    /// A tar archive, which torch wrote before its version 0.1.10.
    Tar,
    /// A safetensors file, sound or not.
    Safetensors,
    /// JSON, sound or not.
    Json,
    /// Other text; the beginning of its first line.
    Text(String),
    /// None of these.
    Unknown,
}

impl FileKind {
    /// The kind of a file that begins with `bytes`.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let bytes = &bytes[..bytes.len().min(BEGINNING)];
        match bytes {
            [] => return Self::Empty,
            [b'G', b'G', b'U', b'F', ..] => return Self::Gguf,
            // Before the others: its length comes first, which may look like any of them.
            [_, _, _, _, _, 0, 0, 0, b'{', ..] => return Self::Safetensors,
            // Zip archives and the pickle protocols from 2 on, which torch has used ever since.
            [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => return Self::Torch,
            [0x1f, 0x8b, ..] => return Self::Gzip,
            _ if bytes.get(257..262) == Some(b"ustar") => return Self::Tar,
            _ => {}
        }
        match text(bytes) {
            Some(text) => Self::of_text(text.trim_start_matches('\u{feff}').trim_start()),
            None => Self::Unknown,
        }
    }

    fn of_text(text: &str) -> Self {
        let starts = |with: &str| {
            let start = text.get(..with.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(with))
        };
        if LFS.iter().any(|line| text.starts_with(line)) {
            let size = text.lines().find_map(|line| line.strip_prefix("size "));
            let size = size.and_then(|size| size.trim().parse().ok());
            return Self::LfsPointer { size };
        }
        if PAGES.iter().any(|tag| starts(tag)) {
            return Self::WebPage;
        }
        if text.starts_with(['{', '[']) {
            return Self::Json;
        }
        let line = text.lines().next().unwrap_or_default();
        Self::Text(line.chars().take(60).collect())
    }

    /// The kind of a file on disk; its name tells where its beginning does not.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        File::open(path)?
            .take(BEGINNING as u64)
            .read_to_end(&mut bytes)?;
        let kind = Self::of_bytes(&bytes);
        if kind != Self::Unknown {
            return Ok(kind);
        }
        let extension = path.extension().map(|name| name.to_string_lossy());
        Ok(
            match extension.as_deref().map(str::to_lowercase).as_deref() {
                Some("ckpt" | "pt" | "pth" | "bin") => Self::Torch,
                Some("safetensors" | "sft") => Self::Safetensors,
                Some("gguf") => Self::Gguf,
                Some("onnx") => Self::Onnx,
                _ => kind,
            },
        )
    }

    /// `true` for what is never a text of a model, whatever it is called.
    pub(crate) fn is_foreign(&self) -> bool {
        !matches!(
            self,
            Self::Empty | Self::Json | Self::Text(_) | Self::Unknown
        )
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Empty => "an empty file",
            Self::LfsPointer { size: None } => "a Git LFS pointer and not the file itself",
            Self::LfsPointer { size: Some(size) } => {
                return write!(
                    f,
                    "a Git LFS pointer and not the file itself, which has {size} bytes \
                     (git lfs pull fetches it)"
                );
            }
            Self::WebPage => {
                "a web page (HTML or XML) and not the file itself: a download that gave an error \
                 or asked for a login"
            }
            Self::Torch => "a PyTorch checkpoint (pickle)",
            Self::Gguf => "a GGUF file",
            Self::Onnx => "an ONNX file",
            Self::Gzip => "a gzip archive",
            Self::Tar => {
                "a tar archive, as PyTorch wrote before its version 0.1.10: save it anew with a \
                 later one"
            }
            Self::Safetensors => "a safetensors file",
            Self::Json => "a JSON file",
            Self::Text(line) => return write!(f, "a text that begins with {line:?}"),
            Self::Unknown => "a file of no kind that is known here",
        };
        f.write_str(name)
    }
}

/// The bytes as text, when that is what they are; the last character may be cut.
fn text(bytes: &[u8]) -> Option<&str> {
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            str::from_utf8(&bytes[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let is_text = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    text.chars().all(is_text).then_some(text)
}
