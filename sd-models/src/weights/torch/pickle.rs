//! Pickles (PEP 3154; CPython's `pickletools` describes each opcode): what one makes, read by a
//! [machine](machine) that can make tensors and what holds them, and nothing else.
//!
//! Everything a pickle makes lies in one list and is meant by its number in it, so that nothing
//! here recurses, neither over objects within objects nor when they are freed, and an object within
//! itself is no harm.

mod machine;
mod make;

use super::globals::Element;
use super::{Fault, damaged};
use crate::weights::content::Stream;
use machine::Machine;

/// No checkpoint's pickle comes near this: that of SDXL, EMA and an optimiser's state has 3 MB.
const MAX_PICKLE: u64 = 32 << 20;

/// A value: small, or the number of an object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Object(u32),
}

#[derive(Debug)]
pub(super) enum Object {
    Text(Box<str>),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// A function or class by its module and name. Naming it does nothing.
    Global(Box<str>),
    /// The number of a storage.
    Storage(usize),
    Tensor(Box<Tensor>),
    /// What was not made, as nothing reads it.
    Nothing,
}

/// A view of a storage, all of which lies within it.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    pub(super) storage: usize,
    pub(super) element: Element,
    /// The first element.
    pub(super) offset: u64,
    pub(super) shape: Vec<usize>,
    /// Elements from one to the next along each side.
    pub(super) strides: Vec<u64>,
}

/// A piece of memory that tensors are views of.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    pub(super) key: Box<str>,
    pub(super) element: Element,
    /// Its size in elements.
    pub(super) len: u64,
}

impl Storage {
    /// Its size in bytes, which was checked to be a number.
    pub(super) fn bytes(&self) -> u64 {
        self.len * self.element.size as u64
    }
}

/// What a pickle has made.
pub(super) struct Pickle {
    pub(super) result: Value,
    pub(super) objects: Vec<Object>,
    pub(super) storages: Vec<Storage>,
}

impl Pickle {
    /// The object that `value` is.
    pub(super) fn object(&self, value: Value) -> Option<&Object> {
        object(&self.objects, value)
    }

    pub(super) fn text(&self, value: Value) -> Option<&str> {
        match self.object(value)? {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }
}

fn object(objects: &[Object], value: Value) -> Option<&Object> {
    match value {
        Value::Object(at) => objects.get(at as usize),
        _ => None,
    }
}

/// Reads one pickle up to its end.
pub(super) fn read(stream: &mut Stream<'_>) -> Result<Pickle, Fault> {
    let mut machine = Machine::default();
    let start = stream.position();
    loop {
        let [opcode] = stream.array()?;
        if stream.position() - start > MAX_PICKLE {
            return Err(damaged("its pickle is longer than any checkpoint's"));
        }
        if opcode == b'.' {
            return machine.finish();
        }
        machine.step(opcode, stream)?;
    }
}
