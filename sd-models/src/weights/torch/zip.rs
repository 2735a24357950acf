//! The form of torch 1.6 and later: a zip archive (PKWARE's APPNOTE.TXT) whose entries are stored.

use std::collections::{HashMap, HashSet};

use super::pickle;
use super::{Fault, Located, damaged};
use crate::weights::content::{Content, Stream};

/// More entries than any checkpoint has tensors.
const MAX_ENTRIES: u64 = 1 << 17;
const MAX_DIRECTORY: u64 = 16 << 20;

/// An entry that is read: its bytes lie in the file as they are.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Place of its local header.
    header: u64,
    size: u64,
}

/// Reads what makes the tensors, and where their storages lie.
pub(super) fn read(content: &Content) -> Result<Located, Fault> {
    let (start, count) = directory(content)?;
    let entries = entries(content, start, count)?;
    let mut pickles = entries.keys().filter_map(|name| {
        let folder = name.strip_suffix("data.pkl")?.strip_suffix('/')?;
        (!folder.contains('/')).then_some(folder)
    });
    let folder = pickles
        .next()
        .ok_or_else(|| damaged("it is a zip archive without a data.pkl"))?;
    if pickles.next().is_some() {
        return Err(damaged("it has more than one data.pkl"));
    }
    if entries.contains_key(&format!("{folder}/constants.pkl")) {
        return Err(damaged("it is a TorchScript program and not a checkpoint"));
    }
    let mut places = Places {
        content,
        taken: Vec::new(),
    };
    if let Some(order) = entries.get(&format!("{folder}/byteorder")) {
        let (start, end) = places.locate(&format!("{folder}/byteorder"), order)?;
        let order = content.stream(start, end).bytes(order.size.min(16))?;
        if order.trim_ascii() != b"little" {
            return Err(damaged("it was written by a big-endian machine"));
        }
    }
    let name = format!("{folder}/data.pkl");
    let (from, to) = places.locate(&name, &entries[&name])?;
    let pickle = pickle::read(&mut content.stream(from, to))?;
    let mut starts = Vec::with_capacity(pickle.storages.len());
    for storage in &pickle.storages {
        let name = format!("{folder}/data/{}", storage.key);
        let entry = entries.get(&name);
        let entry = entry.ok_or_else(|| damaged(format!("it has no entry {name}")))?;
        let (expected, found) = (storage.bytes(), entry.size);
        if found < expected {
            let reason = format!("entry {name} has {found} bytes, expected {expected}");
            return Err(damaged(reason));
        }
        starts.push(places.locate(&name, entry)?.0);
    }
    places.check_apart()?;
    Ok((pickle, starts))
}

/// Places of the entries that are read.
struct Places<'a> {
    content: &'a Content,
    taken: Vec<(u64, u64)>,
}

impl Places<'_> {
    /// First byte of an entry's content, and the one behind its last.
    fn locate(&mut self, name: &str, entry: &Entry) -> Result<(u64, u64), Fault> {
        let mut header = [0; 30];
        self.content.read_at(entry.header, &mut header)?;
        let [n, m] = [u16_at(&header, 26), u16_at(&header, 28)];
        if header[..4] != *b"PK\x03\x04" {
            return Err(damaged(format!("entry {name} has no header")));
        }
        let mut local = vec![0; n as usize];
        self.content.read_at(entry.header + 30, &mut local)?;
        if local != name.as_bytes() {
            return Err(damaged(format!("entry {name} has two names")));
        }
        let start = entry.header + 30 + u64::from(n) + u64::from(m);
        let end = start
            .checked_add(entry.size)
            .filter(|end| *end <= self.content.len());
        let end = end.ok_or_else(|| damaged(format!("entry {name} lies outside the file")))?;
        self.taken.push((entry.header, end));
        Ok((start, end))
    }

    /// Entries over one another are no writer's.
    fn check_apart(&mut self) -> Result<(), Fault> {
        self.taken.sort_unstable();
        match self
            .taken
            .array_windows()
            .any(|[(_, end), (start, _)]| start < end)
        {
            true => Err(damaged("two of its entries overlap")),
            false => Ok(()),
        }
    }
}

/// Place of the central directory and its number of entries.
fn directory(content: &Content) -> Result<(u64, u64), Fault> {
    let cut = || damaged("its zip archive has no end (cut short?)");
    // The record at the end, behind which there may be a comment.
    let tail = content.len().min(22 + 0xffff);
    let from = content.len() - tail;
    let tail = content.stream(from, content.len()).bytes(tail)?;
    let at = tail
        .windows(4)
        .rposition(|bytes| bytes == b"PK\x05\x06")
        .ok_or_else(cut)?;
    let end = tail.get(at..at + 22).ok_or_else(cut)?;
    let (mut count, mut size, mut start) = (
        u64::from(u16_at(end, 10)),
        u64::from(u32_at(end, 12)),
        u64::from(u32_at(end, 16)),
    );
    let end = from + at as u64;
    if let Some(at) = end.checked_sub(20) {
        let mut locator = [0; 20];
        content.read_at(at, &mut locator)?;
        if locator[..4] == *b"PK\x06\x07" {
            let mut large = [0; 56];
            content
                .read_at(u64_at(&locator, 8), &mut large)
                .map_err(|_| cut())?;
            if large[..4] != *b"PK\x06\x06" {
                return Err(cut());
            }
            (count, size, start) = (u64_at(&large, 32), u64_at(&large, 40), u64_at(&large, 48));
        }
    }
    let is_sound = start.checked_add(size).is_some_and(|behind| behind <= end);
    if !is_sound || count > MAX_ENTRIES || size > MAX_DIRECTORY {
        return Err(damaged("the directory of its zip archive is not sound"));
    }
    Ok((start, count))
}

fn entries(content: &Content, start: u64, count: u64) -> Result<HashMap<String, Entry>, Fault> {
    let mut stream = content.stream(start, content.len());
    let (mut entries, mut names) = (HashMap::new(), HashSet::new());
    for _ in 0..count {
        let (name, method, entry) = entry(&mut stream)?;
        if !is_plain(&name) {
            return Err(damaged(format!(
                "entry {name:?} has a name that leads out of the archive"
            )));
        }
        if method != 0 {
            let reason = format!(
                "entry {name} is compressed or encrypted (method {method}); checkpoints are stored \
                 as they are: unpack it and zip it with -0"
            );
            return Err(damaged(reason));
        }
        if !names.insert(name.clone()) {
            return Err(damaged(format!("entry {name} is there twice")));
        }
        entries.insert(name, entry);
    }
    Ok(entries)
}

/// Name, method of compression and place of the next entry.
fn entry(stream: &mut Stream<'_>) -> Result<(String, u16, Entry), Fault> {
    let fixed: [u8; 46] = stream.array()?;
    if fixed[..4] != *b"PK\x01\x02" {
        return Err(damaged("the directory of its zip archive is not sound"));
    }
    let name = stream.bytes(u16_at(&fixed, 28).into())?;
    let extra = stream.bytes(u16_at(&fixed, 30).into())?;
    stream.skip(u16_at(&fixed, 32).into())?;
    let name = String::from_utf8(name).map_err(|_| damaged("an entry's name is no text"))?;
    let [mut packed, mut size, mut header] = [20, 24, 42].map(|at| u64::from(u32_at(&fixed, at)));
    let mut large = zip64(&extra).as_chunks::<8>().0.iter();
    for number in [&mut size, &mut packed, &mut header] {
        if *number == u64::from(u32::MAX) {
            let next = large
                .next()
                .ok_or_else(|| damaged(format!("entry {name} has no size")))?;
            *number = u64::from_le_bytes(*next);
        }
    }
    let is_encrypted = fixed[8] & 1 != 0;
    let method = match u16_at(&fixed, 10) {
        0 if is_encrypted || packed != size => u16::MAX,
        method => method,
    };
    Ok((name, method, Entry { header, size }))
}

/// The numbers of an entry that need more than 32 bits.
fn zip64(mut extra: &[u8]) -> &[u8] {
    while extra.len() >= 4 {
        let (kind, len) = (u16_at(extra, 0), u16_at(extra, 2) as usize);
        let rest = &extra[4..];
        if kind == 1 {
            return &rest[..len.min(rest.len())];
        }
        extra = &rest[len.min(rest.len())..];
    }
    &[]
}

/// `true` for a name that stays where it is put, though nothing is.
fn is_plain(name: &str) -> bool {
    let name = name.strip_suffix('/').unwrap_or(name);
    !name.contains(['\\', ':', '\0'])
        && !name.split('/').any(|part| matches!(part, "" | "." | ".."))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
