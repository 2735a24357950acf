//! The machine that obeys a pickle's opcodes: a stack, a memo and a list of objects.

use std::collections::HashMap;

use super::super::globals;
use super::super::{Fault, damaged};
use super::{Object, Pickle, Storage, Tensor, Value, object};
use crate::weights::content::Stream;

/// No checkpoint comes near these.
const MAX_STACK: usize = 1 << 18;
const MAX_MEMO: u32 = 1 << 20;
/// Bytes that all objects may take.
const MAX_MEMORY: usize = 20 << 20;
/// Longest text that is anybody's name.
const MAX_TEXT: u64 = 1 << 16;

#[derive(Default)]
pub(super) struct Machine {
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    objects: Vec<Object>,
    pub(super) storages: Vec<Storage>,
    /// Numbers of the storages by their keys.
    pub(super) keys: HashMap<Box<str>, usize>,
    /// Bytes spent.
    memory: usize,
}

/// Opcodes that call something, or that no checkpoint has, by their names.
const REFUSED: &[(u8, &str)] = &[
    (b'i', "INST"),
    (b'o', "OBJ"),
    (0x82, "EXT1"),
    (0x83, "EXT2"),
    (0x84, "EXT4"),
    (0x92, "NEWOBJ_EX"),
    (b'P', "PERSID"),
    (b'g', "GET"),
    (b'p', "PUT"),
    (b'I', "INT"),
    (b'L', "LONG"),
    (b'F', "FLOAT"),
    (b'S', "STRING"),
    (b'V', "UNICODE"),
    (0x96, "BYTEARRAY8"),
    (0x97, "NEXT_BUFFER"),
    (0x98, "READONLY_BUFFER"),
];

impl Machine {
    /// What has been made, of which the value on top is the whole.
    pub(super) fn finish(mut self) -> Result<Pickle, Fault> {
        Ok(Pickle {
            result: self.pop()?,
            objects: self.objects,
            storages: self.storages,
        })
    }

    /// Does what one opcode says.
    pub(super) fn step(&mut self, opcode: u8, stream: &mut Stream<'_>) -> Result<(), Fault> {
        match opcode {
            // PROTO, FRAME
            0x80 => match stream.array()? {
                [2..=5] => {}
                [version] => return Err(damaged(format!("its pickle is of protocol {version}"))),
            },
            0x95 => stream.skip(8)?,
            // MARK, POP, POP_MARK, DUP
            b'(' => {
                if self.marks.len() >= MAX_STACK {
                    return Err(damaged("MARK: its pickle nests too deeply"));
                }
                self.marks.push(self.stack.len());
            }
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => self.push(self.top()?)?,
            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            // BININT, BININT1, BININT2, LONG1, LONG4, BINFLOAT
            b'J' => self.push(Value::Int(i32::from_le_bytes(stream.array()?).into()))?,
            b'K' => self.push(Value::Int(u8::from_le_bytes(stream.array()?).into()))?,
            b'M' => self.push(Value::Int(u16::from_le_bytes(stream.array()?).into()))?,
            0x8a => {
                let [len] = stream.array()?;
                self.long(len.into(), stream)?;
            }
            0x8b => {
                let len = u32::from_le_bytes(stream.array()?);
                self.long(len.into(), stream)?;
            }
            b'G' => self.push(Value::Float(f64::from_be_bytes(stream.array()?)))?,
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8, and Python 2's SHORT_BINSTRING, BINSTRING
            0x8c | b'U' => {
                let [len] = stream.array()?;
                self.text(len.into(), stream)?;
            }
            b'X' | b'T' => {
                let len = u32::from_le_bytes(stream.array()?);
                self.text(len.into(), stream)?;
            }
            0x8d => {
                let len = u64::from_le_bytes(stream.array()?);
                self.text(len, stream)?;
            }
            // SHORT_BINBYTES, BINBYTES, BINBYTES8
            b'C' => {
                let [len] = stream.array()?;
                self.bytes(len.into(), stream)?;
            }
            b'B' => {
                let len = u32::from_le_bytes(stream.array()?);
                self.bytes(len.into(), stream)?;
            }
            0x8e => {
                let len = u64::from_le_bytes(stream.array()?);
                self.bytes(len, stream)?;
            }
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.make(Object::Tuple(Vec::new()))?,
            0x85..=0x87 => {
                let len = (opcode - 0x84) as usize;
                let values = self.pop_many(len)?;
                self.make(Object::Tuple(values))?;
            }
            b't' => {
                let values = self.pop_mark()?;
                self.make(Object::Tuple(values))?;
            }
            // EMPTY_LIST, LIST, APPEND, APPENDS; a set (EMPTY_SET, FROZENSET, ADDITEMS) is a list
            b']' | 0x8f => self.make(Object::List(Vec::new()))?,
            b'l' | 0x91 => {
                let values = self.pop_mark()?;
                self.make(Object::List(values))?;
            }
            b'a' => {
                let value = self.pop()?;
                self.append("APPEND", vec![value])?;
            }
            b'e' | 0x90 => {
                let values = self.pop_mark()?;
                let name = if opcode == b'e' {
                    "APPENDS"
                } else {
                    "ADDITEMS"
                };
                self.append(name, values)?;
            }
            // EMPTY_DICT, DICT, SETITEM, SETITEMS
            b'}' => self.make(Object::Dict(Vec::new()))?,
            b'd' => {
                let values = self.pop_mark()?;
                self.make(Object::Dict(Vec::new()))?;
                self.set("DICT", values)?;
            }
            b's' => {
                let values = self.pop_many(2)?;
                self.set("SETITEM", values)?;
            }
            b'u' => {
                let values = self.pop_mark()?;
                self.set("SETITEMS", values)?;
            }
            // BINGET, LONG_BINGET, BINPUT, LONG_BINPUT, MEMOIZE
            b'h' => {
                let [at] = stream.array()?;
                self.get(at.into())?;
            }
            b'j' => self.get(u32::from_le_bytes(stream.array()?))?,
            b'q' => {
                let [at] = stream.array()?;
                self.put(at.into())?;
            }
            b'r' => self.put(u32::from_le_bytes(stream.array()?))?,
            0x94 => self.put(self.memo.len() as u32)?,
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let [module, name] = [line(stream)?, line(stream)?];
                self.make(Object::Global(format!("{module}.{name}").into()))?;
            }
            0x93 => {
                let names = self.pop_many(2)?;
                let [module, name] = [self.as_text(names[0])?, self.as_text(names[1])?];
                let global = format!("{module}.{name}").into();
                self.make(Object::Global(global))?;
            }
            // BINPERSID, REDUCE, NEWOBJ, BUILD
            b'Q' => {
                let id = self.pop()?;
                self.persistent(id)?;
            }
            b'R' => {
                let arguments = self.pop()?;
                let function = self.pop()?;
                self.call(function, arguments)?;
            }
            0x81 => {
                let arguments = self.pop()?;
                let class = self.pop()?;
                let name = self.name_of(class);
                let is_empty =
                    matches!(self.object(arguments), Some(Object::Tuple(a)) if a.is_empty());
                if !is_empty || !globals::is_dict(&name) {
                    return Err(Fault::Refused(format!("NEWOBJ of {name}")));
                }
                self.make(Object::Dict(Vec::new()))?;
            }
            b'b' => {
                let state = self.pop()?;
                self.build(state)?;
            }
            _ => {
                let refused = REFUSED.iter().find(|(code, _)| *code == opcode);
                return Err(match refused {
                    Some((_, name)) => Fault::Refused(format!("the opcode {name}")),
                    None => damaged(format!("its pickle has no opcode {opcode:#04x}")),
                });
            }
        }
        Ok(())
    }

    pub(super) fn object(&self, value: Value) -> Option<&Object> {
        object(&self.objects, value)
    }

    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), Fault> {
        self.memory = self.memory.saturating_add(bytes);
        if self.memory > MAX_MEMORY {
            return Err(damaged("its pickle makes more than any checkpoint's"));
        }
        Ok(())
    }

    pub(super) fn push(&mut self, value: Value) -> Result<(), Fault> {
        if self.stack.len() >= MAX_STACK {
            return Err(damaged("its pickle piles too much on its stack"));
        }
        self.stack.push(value);
        Ok(())
    }

    /// Makes an object and pushes it.
    pub(super) fn make(&mut self, object: Object) -> Result<(), Fault> {
        let inner = match &object {
            Object::Text(text) | Object::Global(text) => text.len(),
            Object::Tuple(values) | Object::List(values) => size_of_val(&values[..]),
            Object::Dict(items) => size_of_val(&items[..]),
            Object::Tensor(tensor) => size_of::<Tensor>() + 16 * tensor.shape.len(),
            Object::Storage(_) | Object::Nothing => 0,
        };
        self.spend(size_of::<Object>() + inner)?;
        self.objects.push(object);
        self.push(Value::Object((self.objects.len() - 1) as u32))
    }

    /// The lowest that the stack may get: below the last mark lies what is not meant.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    pub(super) fn top(&self) -> Result<Value, Fault> {
        match self.stack.last() {
            Some(value) if self.stack.len() > self.floor() => Ok(*value),
            _ => Err(damaged("its pickle takes from an empty stack")),
        }
    }

    fn pop(&mut self) -> Result<Value, Fault> {
        let value = self.top()?;
        self.stack.pop();
        Ok(value)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Value>, Fault> {
        let at = self
            .stack
            .len()
            .checked_sub(count)
            .filter(|at| *at >= self.floor());
        let at = at.ok_or_else(|| damaged("its pickle takes from an empty stack"))?;
        Ok(self.stack.split_off(at))
    }

    /// Everything above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Value>, Fault> {
        let mark = self.marks.pop();
        let mark = mark.ok_or_else(|| damaged("its pickle has no MARK where it needs one"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    /// A whole number of `len` bytes; one that is too large for anything here is not read.
    fn long(&mut self, len: u64, stream: &mut Stream<'_>) -> Result<(), Fault> {
        if len > 8 {
            stream.skip(len)?;
            return self.make(Object::Nothing);
        }
        let bytes = stream.bytes(len)?;
        let sign = bytes
            .last()
            .map_or(0, |last| if last & 0x80 == 0 { 0 } else { 0xff });
        let mut whole = [sign; 8];
        whole[..bytes.len()].copy_from_slice(&bytes);
        self.push(Value::Int(i64::from_le_bytes(whole)))
    }

    fn text(&mut self, len: u64, stream: &mut Stream<'_>) -> Result<(), Fault> {
        if len > MAX_TEXT {
            // A note; names are shorter.
            stream.skip(len)?;
            return self.make(Object::Nothing);
        }
        let bytes = stream.bytes(len)?;
        // Python 2's strings and Python 3's lone surrogates need not be UTF-8.
        let text = String::from_utf8_lossy(&bytes).into();
        self.make(Object::Text(text))
    }

    fn bytes(&mut self, len: u64, stream: &mut Stream<'_>) -> Result<(), Fault> {
        stream.skip(len)?;
        self.make(Object::Nothing)
    }

    fn get(&mut self, at: u32) -> Result<(), Fault> {
        let value = self.memo.get(&at).copied();
        self.push(value.ok_or_else(|| damaged(format!("its pickle has no memo {at}")))?)
    }

    fn put(&mut self, at: u32) -> Result<(), Fault> {
        if at >= MAX_MEMO {
            let reason = format!("its pickle has a memo {at}, expected less than {MAX_MEMO}");
            return Err(damaged(reason));
        }
        let value = self.top()?;
        if self.memo.insert(at, value).is_none() {
            self.spend(2 * size_of::<(u32, Value)>())?;
        }
        Ok(())
    }

    fn append(&mut self, opcode: &str, values: Vec<Value>) -> Result<(), Fault> {
        self.spend(size_of_val(&values[..]))?;
        let list = self.top()?;
        match self.object_mut(list) {
            Some(Object::List(list)) => list.extend(values),
            // A set that was not made.
            Some(Object::Nothing) => {}
            _ => return Err(self.refused(opcode, list)),
        }
        Ok(())
    }

    /// Puts keys and values, which take turns, into the dictionary on top.
    fn set(&mut self, opcode: &str, values: Vec<Value>) -> Result<(), Fault> {
        self.spend(size_of_val(&values[..]))?;
        let (pairs, rest) = values.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(damaged("its pickle has a key without a value"));
        }
        let dict = self.top()?;
        match self.object_mut(dict) {
            Some(Object::Dict(items)) => items.extend(pairs.iter().map(|[k, v]| (*k, *v))),
            _ => return Err(self.refused(opcode, dict)),
        }
        Ok(())
    }

    pub(super) fn object_mut(&mut self, value: Value) -> Option<&mut Object> {
        match value {
            Value::Object(at) => self.objects.get_mut(at as usize),
            _ => None,
        }
    }

    /// The error of an opcode that would call a method of `value`.
    pub(super) fn refused(&self, opcode: &str, value: Value) -> Fault {
        Fault::Refused(format!("{opcode} of {}", self.name_of(value)))
    }

    /// A value in words.
    pub(super) fn name_of(&self, value: Value) -> String {
        match self.object(value) {
            Some(Object::Global(name)) => name.to_string(),
            Some(Object::Text(_)) => "a text".into(),
            Some(Object::Tuple(_)) => "a tuple".into(),
            Some(Object::List(_)) => "a list".into(),
            Some(Object::Dict(_)) => "a dictionary".into(),
            Some(Object::Storage(_)) => "a storage".into(),
            Some(Object::Tensor(_)) => "a tensor".into(),
            Some(Object::Nothing) => "an object".into(),
            None => "a number".into(),
        }
    }

    pub(super) fn as_text(&self, value: Value) -> Result<&str, Fault> {
        match self.object(value) {
            Some(Object::Text(text)) => Ok(text),
            _ => Err(damaged("its pickle names something with what is no text")),
        }
    }

    pub(super) fn as_tuple(&self, value: Value) -> Result<Vec<Value>, Fault> {
        match self.object(value) {
            Some(Object::Tuple(values)) => Ok(values.clone()),
            _ => Err(damaged("its pickle has no tuple where it needs one")),
        }
    }
}

/// The next line, without its end.
fn line(stream: &mut Stream<'_>) -> Result<String, Fault> {
    let mut bytes = Vec::new();
    loop {
        match stream.array()? {
            [b'\n'] => break,
            [byte] => bytes.push(byte),
        }
        if bytes.len() > 1024 {
            return Err(damaged(
                "GLOBAL: its pickle has a name of more than 1024 bytes",
            ));
        }
    }
    String::from_utf8(bytes).map_err(|_| damaged("GLOBAL: its pickle has a name that is no text"))
}
