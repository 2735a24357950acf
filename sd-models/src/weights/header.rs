//! The header of a safetensors file, checked before anything is read or allocated by it.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::Read;

use burn::tensor::DType;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::source::{CutShort, TensorInfo};

/// The format's own limit, so that a forged length cannot ask for all memory.
const MAX_HEADER: u64 = 100_000_000;

/// What a header says.
pub(super) struct Header {
    /// The tensors by their places, each with that of its first byte, from the start of the file.
    pub(super) entries: Vec<(TensorInfo, u64)>,
    pub(super) metadata: BTreeMap<String, String>,
    /// The first tensor that the file has not all of.
    pub(super) cut_short: Option<CutShort>,
}

/// Reads and checks the header of a file of `file_size` bytes. The error is the reason in words.
///
/// A sound file's tensors each have as many bytes as their shapes and number types need, and none
/// shares bytes or a name with another. Bytes between and behind them are nobody's: some writers
/// align tensors.
pub(super) fn read(mut file: impl Read, file_size: u64) -> Result<Header, String> {
    let mut length = [0; 8];
    if file_size < 8 {
        return Err(format!("it has only {file_size} bytes"));
    }
    file.read_exact(&mut length).map_err(|e| e.to_string())?;
    let length = u64::from_le_bytes(length);
    if length > file_size - 8 || length > MAX_HEADER {
        return Err(format!(
            "its header claims {length} bytes, of {file_size} in the file (cut short?)"
        ));
    }
    let mut header = Vec::new();
    file.take(length)
        .read_to_end(&mut header)
        .map_err(|e| e.to_string())?;
    let header = str::from_utf8(&header).map_err(|e| format!("its header is not valid: {e}"))?;
    let raw: RawHeader =
        serde_json::from_str(header).map_err(|e| format!("its header is not valid: {e}"))?;

    let data_start = 8 + length;
    let mut entries = Vec::with_capacity(raw.tensors.len());
    for (name, raw) in raw.tensors {
        entries.push(raw.check(name, data_start)?);
    }
    let cut_short = check_places(&mut entries, file_size)?;
    let entries = entries.into_iter();
    Ok(Header {
        entries: entries.map(|(info, [start, _])| (info, start)).collect(),
        metadata: raw.metadata,
        cut_short,
    })
}

/// Sorts the tensors by their places, which must not overlap.
fn check_places(
    entries: &mut [(TensorInfo, [u64; 2])],
    file_size: u64,
) -> Result<Option<CutShort>, String> {
    entries.sort_by_key(|(_, range)| *range);
    let (mut covered, mut cut_short) = (0, None);
    for (TensorInfo { name, .. }, [start, end]) in entries.iter() {
        // A tensor of no elements has no bytes to share.
        if *start < covered && start < end {
            return Err(format!("tensor {name} overlaps the one before it"));
        }
        if *end > file_size && cut_short.is_none() {
            cut_short = Some(CutShort {
                bytes: end - file_size,
                tensor: name.clone(),
            });
        }
        covered = covered.max(*end);
    }
    Ok(cut_short)
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl RawEntry {
    fn check(self, name: String, data_start: u64) -> Result<(TensorInfo, [u64; 2]), String> {
        let RawEntry {
            dtype,
            shape,
            data_offsets: [from, to],
        } = self;
        let (stored, burn, bytes) = number_type(&dtype)
            .ok_or_else(|| format!("tensor {name} has the unknown number type {dtype:?}"))?;
        let needed = shape.iter().try_fold(bytes, |n, &side| n.checked_mul(side));
        let range = [from, to].map(|offset| data_start.checked_add(offset));
        let (Some(needed), [Some(from), Some(to)]) = (needed, range) else {
            return Err(format!("tensor {name} has an absurd size"));
        };
        if to.checked_sub(from) != Some(needed) {
            return Err(format!(
                "tensor {name} needs {needed} bytes for its shape {shape:?} and lies at {from}..{to}"
            ));
        }
        let sides = shape.iter().map(|&side| usize::try_from(side));
        let shape = sides.collect::<Result<_, _>>();
        let info = TensorInfo {
            shape: shape.map_err(|_| format!("tensor {name} has an absurd size"))?,
            name,
            stored,
            dtype: burn,
        };
        Ok((info, [from, to]))
    }
}

/// Number types: safetensors' name, the type in which the values can be read, and bytes of one.
const NUMBER_TYPES: &[(&str, Option<DType>, u64)] = &[
    ("F64", Some(DType::F64), 8),
    ("F32", Some(DType::F32), 4),
    ("F16", Some(DType::F16), 2),
    ("BF16", Some(DType::BF16), 2),
    ("I64", None, 8),
    ("I32", None, 4),
    ("I16", None, 2),
    ("I8", None, 1),
    ("U64", None, 8),
    ("U32", None, 4),
    ("U16", None, 2),
    ("U8", None, 1),
    ("BOOL", None, 1),
    ("F8_E4M3", None, 1),
    ("F8_E5M2", None, 1),
    ("F8_E8M0", None, 1),
    ("F8_E4M3FNUZ", None, 1),
    ("F8_E5M2FNUZ", None, 1),
    ("C64", None, 8),
];

fn number_type(name: &str) -> Option<(&'static str, Option<DType>, u64)> {
    let found = NUMBER_TYPES.iter().find(|(known, ..)| *known == name);
    found.copied()
}

/// The header's JSON object. A map type would let the last of two equal names win in silence.
struct RawHeader {
    tensors: Vec<(String, RawEntry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let (mut names, mut tensors) = (HashSet::new(), Vec::new());
        let mut metadata = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                let message = format!("{name} appears twice");
                return Err(serde::de::Error::custom(message));
            }
            if name == "__metadata__" {
                let notes: Option<BTreeMap<String, String>> = map.next_value()?;
                metadata = notes.unwrap_or_default();
            } else {
                tensors.push((name, map.next_value()?));
            }
        }
        Ok(RawHeader { tensors, metadata })
    }
}
