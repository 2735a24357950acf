//! The form of before torch 1.6: five pickles, and the storages behind them.

use std::collections::HashMap;

use super::pickle::{self, Object, Value};
use super::{Fault, Located, damaged};
use crate::weights::content::{Content, Stream};

/// The whole first pickle, a number that only this form begins with.
const MAGIC: [u8; 15] = *b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// The protocol there has ever been.
const PROTOCOL: i64 = 1001;

/// Reads what makes the tensors: magic, protocol, the writer's machine, the object, the keys of its
/// storages; then, in this order, each storage's size and elements.
pub(super) fn read(content: &Content) -> Result<Located, Fault> {
    let mut stream = content.stream(0, content.len());
    let none = || damaged("it is neither a zip archive nor does it begin as older ones do");
    if content.len() < MAGIC.len() as u64 || stream.array()? != MAGIC {
        return Err(none());
    }
    if pickle::read(&mut stream)?.result != Value::Int(PROTOCOL) {
        return Err(damaged(format!("it is not of protocol {PROTOCOL}")));
    }
    little_endian(&mut stream)?;
    let object = pickle::read(&mut stream)?;
    let keys = pickle::read(&mut stream)?;
    let Some(Object::List(list)) = keys.object(keys.result) else {
        return Err(damaged("it has no list of its storages"));
    };
    let numbers = object.storages.iter().enumerate();
    let numbers: HashMap<&str, usize> = numbers.map(|(at, storage)| (&*storage.key, at)).collect();
    let mut starts = vec![None; object.storages.len()];
    for key in list {
        let key = keys.text(*key).unwrap_or_default();
        let at = numbers.get(key).copied();
        let at =
            at.ok_or_else(|| damaged(format!("nothing says of what size storage {key:?} is")))?;
        let len = u64::from_le_bytes(stream.array()?);
        let storage = &object.storages[at];
        if len != storage.len || starts[at].is_some() {
            let reason = format!("storage {key} has {len} elements, expected {}", storage.len);
            return Err(damaged(reason));
        }
        let (start, bytes) = (stream.position(), storage.bytes());
        if bytes > stream.left() {
            return Err(damaged(format!(
                "it ends within storage {key} (cut short?)"
            )));
        }
        starts[at] = Some(start);
        stream = content.stream(start + bytes, content.len());
    }
    let starts: Option<Vec<u64>> = starts.into_iter().collect();
    let starts = starts.ok_or_else(|| damaged("it lacks a storage (cut short?)"))?;
    Ok((object, starts))
}

fn little_endian(stream: &mut Stream<'_>) -> Result<(), Fault> {
    let machine = pickle::read(stream)?;
    let Some(Object::Dict(items)) = machine.object(machine.result) else {
        return Err(damaged("it says nothing of the machine that wrote it"));
    };
    let is_little = items.iter().any(|(key, value)| {
        machine.text(*key) == Some("little_endian") && *value == Value::Bool(true)
    });
    match is_little {
        true => Ok(()),
        false => Err(damaged("it was written by a big-endian machine")),
    }
}
