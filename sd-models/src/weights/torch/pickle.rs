//! The machine that reads a pickle (PEP 3154; CPython's `pickletools` describes each opcode).
//!
//! Everything a pickle makes lies in one list and is meant by its number in it, so that nothing
//! here recurses, neither over objects within objects nor when they are freed, and an object within
//! itself is no harm.

use std::collections::HashMap;

use super::globals::{self, Callable, Element};
use super::{Fault, damaged};
use crate::weights::content::Stream;

/// No checkpoint's pickle comes near these: that of SDXL, EMA and an optimiser's state has 3 MB.
const MAX_PICKLE: u64 = 32 << 20;
const MAX_STACK: usize = 1 << 18;
const MAX_MEMO: u32 = 1 << 20;
/// Bytes that all objects may take.
const MAX_MEMORY: usize = 20 << 20;
/// Longest text that is anybody's name.
const MAX_TEXT: u64 = 1 << 16;
const MAX_SIDES: usize = 32;

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
    let mut machine = Machine {
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        objects: Vec::new(),
        storages: Vec::new(),
        keys: HashMap::new(),
        memory: 0,
    };
    let start = stream.position();
    loop {
        let [opcode] = stream.array()?;
        if stream.position() - start > MAX_PICKLE {
            return Err(damaged("its pickle is longer than any checkpoint's"));
        }
        if opcode == b'.' {
            return Ok(Pickle {
                result: machine.pop()?,
                objects: machine.objects,
                storages: machine.storages,
            });
        }
        machine.step(opcode, stream)?;
    }
}

struct Machine {
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    objects: Vec<Object>,
    storages: Vec<Storage>,
    /// Numbers of the storages by their keys.
    keys: HashMap<Box<str>, usize>,
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
    /// Does what one opcode says.
    fn step(&mut self, opcode: u8, stream: &mut Stream<'_>) -> Result<(), Fault> {
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

    fn object(&self, value: Value) -> Option<&Object> {
        object(&self.objects, value)
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Fault> {
        self.memory = self.memory.saturating_add(bytes);
        if self.memory > MAX_MEMORY {
            return Err(damaged("its pickle makes more than any checkpoint's"));
        }
        Ok(())
    }

    fn push(&mut self, value: Value) -> Result<(), Fault> {
        if self.stack.len() >= MAX_STACK {
            return Err(damaged("its pickle piles too much on its stack"));
        }
        self.stack.push(value);
        Ok(())
    }

    /// Makes an object and pushes it.
    fn make(&mut self, object: Object) -> Result<(), Fault> {
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

    fn top(&self) -> Result<Value, Fault> {
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

    fn object_mut(&mut self, value: Value) -> Option<&mut Object> {
        match value {
            Value::Object(at) => self.objects.get_mut(at as usize),
            _ => None,
        }
    }

    /// The error of an opcode that would call a method of `value`.
    fn refused(&self, opcode: &str, value: Value) -> Fault {
        Fault::Refused(format!("{opcode} of {}", self.name_of(value)))
    }

    /// A value in words.
    fn name_of(&self, value: Value) -> String {
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

    fn as_text(&self, value: Value) -> Result<&str, Fault> {
        match self.object(value) {
            Some(Object::Text(text)) => Ok(text),
            _ => Err(damaged("its pickle names something with what is no text")),
        }
    }

    fn as_tuple(&self, value: Value) -> Result<Vec<Value>, Fault> {
        match self.object(value) {
            Some(Object::Tuple(values)) => Ok(values.clone()),
            _ => Err(damaged("its pickle has no tuple where it needs one")),
        }
    }

    /// A storage: ('storage', class, key, location, number of elements[, view]).
    fn persistent(&mut self, id: Value) -> Result<(), Fault> {
        let id = self.as_tuple(id)?;
        let wrong = || damaged("its pickle refers to something that is no storage");
        let [kind, class, key, _, len] = id.get(..5).ok_or_else(wrong)? else {
            return Err(wrong());
        };
        if self.as_text(*kind)? != "storage" {
            return Err(wrong());
        }
        if id.get(5).is_some_and(|view| *view != Value::None) {
            return Err(damaged(
                "it has views of storages (written by torch before 0.4)",
            ));
        }
        let class = self.name_of(*class);
        let element = globals::storage(&class);
        let element = element.ok_or_else(|| damaged(format!("it has storages of {class}")))?;
        let len = match len {
            Value::Int(len) => u64::try_from(*len).ok(),
            _ => None,
        };
        let bytes = |len: &u64| len.checked_mul(element.size as u64).is_some();
        let len = len.filter(bytes).ok_or_else(wrong)?;
        let key: Box<str> = self.as_text(*key)?.into();
        let at = match self.keys.get(&key) {
            Some(at) if (self.storages[*at].element, self.storages[*at].len) == (element, len) => {
                *at
            }
            Some(_) => return Err(damaged(format!("storage {key} is of two sizes"))),
            None => {
                self.spend(2 * (size_of::<Storage>() + key.len()))?;
                let at = self.storages.len();
                self.keys.insert(key.clone(), at);
                self.storages.push(Storage { key, element, len });
                at
            }
        };
        self.make(Object::Storage(at))
    }

    /// What one of the known functions makes.
    fn call(&mut self, function: Value, arguments: Value) -> Result<(), Fault> {
        let name = self.name_of(function);
        let is_global = matches!(self.object(function), Some(Object::Global(_)));
        let callable = globals::callable(&name).filter(|_| is_global);
        let callable = callable.ok_or_else(|| Fault::Refused(format!("REDUCE of {name}")))?;
        let few = || damaged(format!("its pickle calls {name} without arguments"));
        let arguments = self.as_tuple(arguments)?;
        match callable {
            Callable::Nothing => self.make(Object::Nothing),
            Callable::Dict => self.dict(arguments.first().copied()),
            Callable::Tensor => self.tensor(&arguments),
            Callable::First => match self.object(*arguments.first().ok_or_else(few)?) {
                Some(Object::Tensor(_)) => self.push(arguments[0]),
                _ => Err(damaged(format!("its pickle calls {name} without a tensor"))),
            },
            Callable::Size => {
                let sides = *arguments.first().ok_or_else(few)?;
                let sides = self.as_tuple(sides)?;
                self.make(Object::Tuple(sides))
            }
            Callable::Inner => {
                let [function, _, inner] = arguments.get(..3).ok_or_else(few)? else {
                    return Err(few());
                };
                let name = self.name_of(*function);
                if globals::callable(&name) != Some(Callable::Tensor) {
                    return Err(Fault::Refused(format!("REDUCE of {name}")));
                }
                let inner = self.as_tuple(*inner)?;
                self.tensor(&inner)
            }
        }
    }

    /// A dictionary, of a list of pairs where there is one.
    fn dict(&mut self, pairs: Option<Value>) -> Result<(), Fault> {
        let mut items = Vec::new();
        if let Some(pairs) = pairs {
            let wrong = || damaged("its pickle makes a dictionary of what is no list of pairs");
            let Some(Object::List(pairs)) = self.object(pairs) else {
                return Err(wrong());
            };
            for pair in pairs {
                match self.object(*pair) {
                    Some(Object::Tuple(pair) | Object::List(pair)) if pair.len() == 2 => {
                        items.push((pair[0], pair[1]));
                    }
                    _ => return Err(wrong()),
                }
            }
        }
        self.make(Object::Dict(items))
    }

    /// A view of a storage.
    fn tensor(&mut self, arguments: &[Value]) -> Result<(), Fault> {
        let wrong = || damaged("its pickle makes a tensor of what is none");
        let [storage, offset, sides, strides] = arguments.get(..4).ok_or_else(wrong)? else {
            return Err(wrong());
        };
        let Some(Object::Storage(storage)) = self.object(*storage) else {
            return Err(wrong());
        };
        let storage = *storage;
        let whole = |value: &Value| match value {
            Value::Int(n) => u64::try_from(*n).map_err(|_| wrong()),
            _ => Err(wrong()),
        };
        let offset = whole(offset)?;
        let [sides, strides] = [self.as_tuple(*sides)?, self.as_tuple(*strides)?];
        if sides.len() != strides.len() || sides.len() > MAX_SIDES {
            return Err(wrong());
        }
        let shape = sides.iter().map(&whole).collect::<Result<Vec<_>, _>>()?;
        let strides = strides.iter().map(&whole).collect::<Result<Vec<_>, _>>()?;
        let Storage { element, len, .. } = self.storages[storage];
        // Of a storage without a number type the tensor has one.
        let named = arguments
            .get(6)
            .and_then(|value| match self.object(*value)? {
                Object::Global(name) => globals::number_type(name),
                _ => None,
            });
        let (element, len) = match element == globals::UNTYPED {
            true => {
                let element = named.ok_or_else(wrong)?;
                (element, len / element.size as u64)
            }
            false => (element, len),
        };
        if !within(offset, &shape, &strides, len) {
            let reason = format!("a tensor {shape:?} lies outside its storage of {len} elements");
            return Err(damaged(reason));
        }
        let shape = shape.into_iter().map(usize::try_from);
        self.make(Object::Tensor(Box::new(Tensor {
            storage,
            element,
            offset,
            shape: shape.collect::<Result<_, _>>().map_err(|_| wrong())?,
            strides,
        })))
    }

    /// The state of an object, which Python hands to its `__setstate__` or puts into its
    /// attributes. What is read here has none that matter, but torch's dictionary of parameters.
    fn build(&mut self, state: Value) -> Result<(), Fault> {
        let object = self.top()?;
        match self.object(object) {
            Some(Object::Tensor(_) | Object::Nothing) => return Ok(()),
            Some(Object::Dict(_)) => {}
            _ => return Err(self.refused("BUILD", object)),
        }
        let Some(Object::Dict(attributes)) = self.object(state) else {
            let state = self.name_of(state);
            return Err(Fault::Refused(format!(
                "BUILD of a dictionary with {state}"
            )));
        };
        let parameters = attributes.iter().find(|(key, _)| {
            matches!(self.object(*key), Some(Object::Text(name)) if &**name == "_parameters")
        });
        let parameters = parameters.and_then(|(_, value)| match self.object(*value) {
            Some(Object::Dict(items)) => Some(items.clone()),
            _ => None,
        });
        let parameters = parameters.unwrap_or_default();
        self.spend(size_of_val(&parameters[..]))?;
        if let Some(Object::Dict(items)) = self.object_mut(object) {
            items.extend(parameters);
        }
        Ok(())
    }
}

/// `true` where every element of a view lies within a storage of `len`.
fn within(offset: u64, shape: &[u64], strides: &[u64], len: u64) -> bool {
    let elements = shape.iter().try_fold(1u64, |n, side| n.checked_mul(*side));
    if elements == Some(0) {
        return offset <= len;
    }
    let mut sides = shape.iter().zip(strides);
    let last = sides.try_fold(offset, |last, (side, stride)| {
        last.checked_add((side - 1).checked_mul(*stride)?)
    });
    elements.is_some() && last.is_some_and(|last| last < len)
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
