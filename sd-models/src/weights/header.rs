//! The header of a safetensors file, checked before anything is read or allocated by it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Read;

use burn::tensor::{BoolStore, DType};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

/// The format's own limit, so that a forged length cannot ask for all memory.
const MAX_HEADER: u64 = 100_000_000;

/// One tensor as the header describes it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// `None` for a number type this program cannot read.
    pub(super) dtype: Option<DType>,
    pub(super) dtype_name: String,
    pub(super) shape: Vec<usize>,
    /// First byte and the one behind the last, counted from the start of the file.
    pub(super) range: [u64; 2],
}

/// Reads and checks the header of a file of `file_size` bytes. The error is the reason in words.
///
/// A sound file's tensors fill everything behind the header, each has as many bytes as its shape
/// and number type need, none shares bytes or a name with another.
pub(super) fn read(mut file: impl Read, file_size: u64) -> Result<Vec<Entry>, String> {
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
    let Header(raw) =
        serde_json::from_str(header).map_err(|e| format!("its header is not valid: {e}"))?;

    let data_start = 8 + length;
    let mut entries = Vec::with_capacity(raw.len());
    for (name, raw) in raw {
        entries.push(raw.check(name, data_start)?);
    }
    check_coverage(&mut entries, data_start, file_size)?;
    Ok(entries)
}

/// The tensors must follow one another without gap or overlap to the end of the file.
fn check_coverage(entries: &mut [Entry], start: u64, end: u64) -> Result<(), String> {
    entries.sort_by_key(|entry| entry.range);
    let mut covered = start;
    for Entry { name, range, .. } in entries.iter() {
        if range[1] > end {
            let missing = range[1] - end;
            return Err(format!(
                "the file ends {missing} bytes before tensor {name} does (cut short?)"
            ));
        }
        if range[0] != covered {
            let what = if range[0] < covered {
                "overlaps the one before it"
            } else {
                "leaves a gap before it"
            };
            return Err(format!("tensor {name} {what}"));
        }
        covered = range[1];
    }
    if covered == end {
        Ok(())
    } else {
        Err(format!("{} bytes belong to no tensor", end - covered))
    }
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl RawEntry {
    fn check(self, name: String, data_start: u64) -> Result<Entry, String> {
        let RawEntry {
            dtype,
            shape,
            data_offsets: [from, to],
        } = self;
        let (burn, bytes) = number_type(&dtype)
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
        Ok(Entry {
            shape: shape.map_err(|_| format!("tensor {name} has an absurd size"))?,
            name,
            dtype: burn,
            dtype_name: dtype,
            range: [from, to],
        })
    }
}

/// Burn's type, where there is one, and the size in bytes of a safetensors type name.
fn number_type(name: &str) -> Option<(Option<DType>, u64)> {
    Some(match name {
        "F64" => (Some(DType::F64), 8),
        "F32" => (Some(DType::F32), 4),
        "F16" => (Some(DType::F16), 2),
        "BF16" => (Some(DType::BF16), 2),
        "I64" => (Some(DType::I64), 8),
        "I32" => (Some(DType::I32), 4),
        "I16" => (Some(DType::I16), 2),
        "I8" => (Some(DType::I8), 1),
        "U64" => (Some(DType::U64), 8),
        "U32" => (Some(DType::U32), 4),
        "U8" => (Some(DType::U8), 1),
        "BOOL" => (Some(DType::Bool(BoolStore::Native)), 1),
        "U16" => (None, 2),
        "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => (None, 1),
        "C64" => (None, 8),
        _ => return None,
    })
}

/// The header's JSON object. A map type would let the last of two equal names win in silence.
struct Header(Vec<(String, RawEntry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let (mut names, mut entries) = (HashSet::new(), Vec::new());
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                let message = format!("{name} appears twice");
                return Err(serde::de::Error::custom(message));
            }
            if name == "__metadata__" {
                map.next_value::<Option<HashMap<String, String>>>()?;
            } else {
                entries.push((name, map.next_value()?));
            }
        }
        Ok(Header(entries))
    }
}
