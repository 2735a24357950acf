//! Names, shapes, encodings and places of a GGUF file's tensors, and its notes.

use std::collections::{BTreeMap, HashSet};
use std::io;

use super::blocks::{Encoding, encoding};
use crate::weights::content::{Content, Stream};
use crate::weights::source::{CutShort, TensorInfo};

/// ggml allows names of 63 characters; those of single files are longer.
const MAX_NAME: u64 = 4096;
const MAX_SIDES: u32 = 8;
const MAX_TENSORS: u64 = 1 << 17;
const MAX_NOTES: u64 = 1 << 16;
/// Longest text that is kept.
const MAX_NOTE: u64 = 4096;
/// Deepest nesting of lists.
const MAX_DEPTH: usize = 4;

/// The note that holds the shape of the tensor whose name follows: ComfyUI-GGUF stores tensors as
/// rows of 256 whose own rows are no multiples of it.
const SHAPE: &str = "comfy.gguf.orig_shape.";

/// A fault of a file.
pub(super) enum Fault {
    Io(io::Error),
    Damaged(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("its header ends too early (cut short?)"),
            _ => Self::Io(error),
        }
    }
}

fn damaged(reason: impl Into<String>) -> Fault {
    Fault::Damaged(reason.into())
}

/// What stands before the values.
pub(super) struct Header {
    pub(super) tensors: Vec<(TensorInfo, u64, &'static Encoding)>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) cut_short: Option<CutShort>,
}

pub(super) fn read(content: &Content) -> Result<Header, Fault> {
    let mut stream = content.stream(0, content.len());
    if stream.array()? != *b"GGUF" {
        return Err(damaged("it does not begin as one"));
    }
    let version = u32::from_le_bytes(stream.array()?);
    if !(2..=3).contains(&version) {
        return Err(damaged(format!(
            "it is of version {version}, expected 2 or 3, little-endian"
        )));
    }
    let count = u64::from_le_bytes(stream.array()?);
    let notes = u64::from_le_bytes(stream.array()?);
    if count > MAX_TENSORS || notes > MAX_NOTES {
        return Err(damaged(format!(
            "it claims {count} tensors and {notes} notes"
        )));
    }
    let (mut metadata, mut shapes) = (BTreeMap::new(), BTreeMap::new());
    for _ in 0..notes {
        let name = text(&mut stream, MAX_NAME)?;
        let kind = u32::from_le_bytes(stream.array()?);
        match (value(&mut stream, kind, 0)?, name.strip_prefix(SHAPE)) {
            (Value::Numbers(sides), Some(tensor)) => drop(shapes.insert(tensor.to_string(), sides)),
            (Value::Note(note), _) => drop(metadata.insert(name, note)),
            _ => {}
        }
    }
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..count {
        let tensor = tensor(&mut stream)?;
        if !names.insert(tensor.0.name.clone()) {
            return Err(damaged(format!("tensor {} is there twice", tensor.0.name)));
        }
        tensors.push(tensor);
    }
    let alignment = metadata
        .get("general.alignment")
        .map_or(Ok(32), |n| n.parse::<u64>());
    let alignment = alignment.ok().filter(|n| (1..=1 << 20).contains(n));
    let alignment = alignment.ok_or_else(|| damaged("its general.alignment is no alignment"))?;
    let start = stream.position().next_multiple_of(alignment);
    let mut cut_short = None;
    let mut places = Vec::with_capacity(tensors.len());
    for (info, offset, encoding) in &mut tensors {
        let elements = info.elements();
        let name = &info.name;
        let absurd = || damaged(format!("tensor {name} has an absurd size"));
        let bytes = (elements / encoding.elements as u64).checked_mul(encoding.bytes as u64);
        let begin = start.checked_add(*offset).ok_or_else(absurd)?;
        let end = begin
            .checked_add(bytes.ok_or_else(absurd)?)
            .ok_or_else(absurd)?;
        if end > content.len() && cut_short.is_none() {
            cut_short = Some(CutShort {
                bytes: end - content.len(),
                tensor: name.clone(),
            });
        }
        *offset = begin;
        places.push((begin, end, name.clone()));
        if let Some(shape) = shapes.get(name) {
            let whole = shape
                .iter()
                .map(|side| *side as u64)
                .try_fold(1, u64::checked_mul);
            if whole != Some(elements) {
                return Err(damaged(format!(
                    "tensor {name} is not of its shape {shape:?}"
                )));
            }
            info.shape.clone_from(shape);
        }
    }
    places.sort_unstable();
    let overlap = places
        .array_windows()
        .find(|[(_, end, _), (begin, next, _)]| begin < end && begin < next);
    match overlap {
        Some([_, (.., name)]) => Err(damaged(format!("tensor {name} overlaps the one before it"))),
        None => Ok(Header {
            tensors,
            metadata,
            cut_short,
        }),
    }
}

/// A tensor and its offset within the values.
fn tensor(stream: &mut Stream<'_>) -> Result<(TensorInfo, u64, &'static Encoding), Fault> {
    let name = text(stream, MAX_NAME)?;
    let count = u32::from_le_bytes(stream.array()?);
    if count > MAX_SIDES {
        return Err(damaged(format!("tensor {name} has {count} sides")));
    }
    let absurd = || damaged(format!("tensor {name} has an absurd size"));
    let mut shape = Vec::new();
    for _ in 0..count {
        let side = u64::from_le_bytes(stream.array()?);
        shape.push(usize::try_from(side).map_err(|_| absurd())?);
    }
    let sides = shape.iter().map(|side| *side as u64);
    sides
        .clone()
        .try_fold(1, u64::checked_mul)
        .ok_or_else(absurd)?;
    let kind = u32::from_le_bytes(stream.array()?);
    let encoding = encoding(kind).ok_or_else(|| {
        damaged(format!(
            "tensor {name} is of the unknown number type {kind}"
        ))
    })?;
    // The innermost side comes first, and holds whole blocks.
    let inner = shape.first().copied().unwrap_or(1);
    if !inner.is_multiple_of(encoding.elements) {
        let (kind, block) = (encoding.name, encoding.elements);
        let reason =
            format!("tensor {name} is of {kind} in rows of {inner}, no multiple of {block}");
        return Err(damaged(reason));
    }
    shape.reverse();
    let offset = u64::from_le_bytes(stream.array()?);
    let info = TensorInfo {
        name,
        shape,
        stored: encoding.name,
        dtype: encoding.dtype,
    };
    Ok((info, offset, encoding))
}

fn text(stream: &mut Stream<'_>, most: u64) -> Result<String, Fault> {
    let len = u64::from_le_bytes(stream.array()?);
    if len > most {
        return Err(damaged(format!(
            "a name in it claims {len} bytes (cut short?)"
        )));
    }
    let bytes = stream.bytes(len)?;
    String::from_utf8(bytes).map_err(|_| damaged("a name in it is no text"))
}

/// A note's value, of what is kept.
enum Value {
    Note(String),
    /// A short list of whole numbers.
    Numbers(Vec<usize>),
    Other,
}

/// Reads a value of the format's type `kind`; long ones are passed over.
fn value(stream: &mut Stream<'_>, kind: u32, depth: usize) -> Result<Value, Fault> {
    Ok(Value::Note(match kind {
        0 => u8::from_le_bytes(stream.array()?).to_string(),
        1 => i8::from_le_bytes(stream.array()?).to_string(),
        2 => u16::from_le_bytes(stream.array()?).to_string(),
        3 => i16::from_le_bytes(stream.array()?).to_string(),
        4 => u32::from_le_bytes(stream.array()?).to_string(),
        5 => i32::from_le_bytes(stream.array()?).to_string(),
        6 => f32::from_le_bytes(stream.array()?).to_string(),
        7 => (stream.array()? != [0]).to_string(),
        10 => u64::from_le_bytes(stream.array()?).to_string(),
        11 => i64::from_le_bytes(stream.array()?).to_string(),
        12 => f64::from_le_bytes(stream.array()?).to_string(),
        8 => {
            let len = u64::from_le_bytes(stream.array()?);
            if len > MAX_NOTE {
                stream.skip(len)?;
                return Ok(Value::Other);
            }
            String::from_utf8_lossy(&stream.bytes(len)?).into_owned()
        }
        9 => return list(stream, depth),
        _ => {
            return Err(damaged(format!(
                "a note in it is of the unknown type {kind}"
            )));
        }
    }))
}

/// Reads a list: its type, its length and its values.
fn list(stream: &mut Stream<'_>, depth: usize) -> Result<Value, Fault> {
    let kind = u32::from_le_bytes(stream.array()?);
    let len = u64::from_le_bytes(stream.array()?);
    if depth == MAX_DEPTH || len > stream.left() {
        return Err(damaged("a list in it is too long (cut short?)"));
    }
    let mut numbers = Some(Vec::new());
    for _ in 0..len {
        let number = match value(stream, kind, depth + 1)? {
            Value::Note(note) if len <= 8 => note.parse().ok(),
            _ => None,
        };
        match (&mut numbers, number) {
            (Some(numbers), Some(number)) => numbers.push(number),
            _ => numbers = None,
        }
    }
    Ok(numbers.map_or(Value::Other, Value::Numbers))
}
