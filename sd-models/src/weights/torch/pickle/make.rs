//! Objects that a pickle's calls make: storages, tensors, dictionaries. All else that would be
//! called is refused by its name.

use super::super::globals::{self, Callable};
use super::super::{Fault, damaged};
use super::machine::Machine;
use super::{Object, Storage, Tensor, Value};

/// No tensor has as many sides.
const MAX_SIDES: usize = 32;

/// No tensor has more elements than this and more than its storage, which would be repeated ones.
const MAX_REPEATED: u64 = 1 << 24;

impl Machine {
    /// A storage: ('storage', class, key, location, number of elements[, view]).
    pub(super) fn persistent(&mut self, id: Value) -> Result<(), Fault> {
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
    pub(super) fn call(&mut self, function: Value, arguments: Value) -> Result<(), Fault> {
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
            let reason = format!(
                "a tensor {shape:?} lies outside its storage of {len} elements, or repeats too many"
            );
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
    pub(super) fn build(&mut self, state: Value) -> Result<(), Fault> {
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

/// `true` where every element of a view lies within a storage of `len`, of which it repeats no more
/// than a file may make its reader hold.
fn within(offset: u64, shape: &[u64], strides: &[u64], len: u64) -> bool {
    let Some(elements) = shape.iter().try_fold(1u64, |n, side| n.checked_mul(*side)) else {
        return false;
    };
    if elements == 0 {
        return offset <= len;
    }
    // A stride of zero repeats an element, which costs a file nothing and its reader everything.
    if elements > len.max(MAX_REPEATED) {
        return false;
    }
    let mut sides = shape.iter().zip(strides);
    let last = sides.try_fold(offset, |last, (side, stride)| {
        last.checked_add((side - 1).checked_mul(*stride)?)
    });
    last.is_some_and(|last| last < len)
}
