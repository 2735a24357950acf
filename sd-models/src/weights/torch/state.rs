//! The tensors by name in what a pickle has made.

use std::collections::{BTreeMap, BTreeSet};

use super::pickle::{Object, Pickle, Tensor, Value};
use super::{Fault, damaged};

/// Names of dictionaries that hold the tensors, among others that hold a trainer's state. The
/// averaged ones of an upscaler are those it is used with.
const WRAPPERS: &[&str] = &["state_dict", "params_ema", "params", "model", "module"];

/// Deepest nesting of tensors' names.
const MAX_DEPTH: usize = 4;

/// Longest text that is kept as a note.
const MAX_NOTE: usize = 256;

/// Tensors, and the numbers and texts beside them.
#[derive(Default)]
pub(super) struct State {
    pub(super) tensors: Vec<(String, Tensor)>,
    pub(super) metadata: BTreeMap<String, String>,
}

type Items = Vec<(Value, Value)>;

/// Finds the dictionary of tensors: the whole, or one of it that has a name for it. Names of
/// dictionaries in dictionaries are joined with dots.
pub(super) fn find(pickle: &Pickle) -> Result<State, Fault> {
    let mut state = State::default();
    let mut value = pickle.result;
    for _ in 0..MAX_DEPTH {
        let Some(items) = dict(pickle, value) else {
            break;
        };
        state.notes(pickle, items);
        match inner(pickle, items) {
            Some(inner) => value = inner,
            None => break,
        }
    }
    if let Some(items) = dict(pickle, value) {
        let mut names = BTreeSet::new();
        let mut seen = BTreeSet::new();
        state.flatten(pickle, items, "", 0, &mut names, &mut seen)?;
    }
    match state.tensors.is_empty() {
        true => Err(damaged("it holds no tensors by name")),
        false => Ok(state),
    }
}

fn dict(pickle: &Pickle, value: Value) -> Option<&Items> {
    match pickle.object(value)? {
        Object::Dict(items) => Some(items),
        _ => None,
    }
}

/// The dictionary within `items` that holds the tensors, where `items` has none itself.
fn inner(pickle: &Pickle, items: &Items) -> Option<Value> {
    let is_tensor = |value| matches!(pickle.object(value), Some(Object::Tensor(_)));
    if items.iter().any(|(_, value)| is_tensor(*value)) {
        return None;
    }
    let by_name = WRAPPERS.iter().find_map(|name| {
        let item = items.iter().find(|(key, value)| {
            pickle.text(*key) == Some(*name) && dict(pickle, *value).is_some()
        });
        item.map(|(_, value)| *value)
    });
    by_name.or_else(|| match items[..] {
        // A dictionary of one whose tensors' names are whole.
        [(key, value)] if pickle.text(key) != Some("string_to_param") => {
            dict(pickle, value).map(|_| value)
        }
        _ => None,
    })
}

impl State {
    fn notes(&mut self, pickle: &Pickle, items: &Items) {
        for (key, value) in items {
            let note = match (value, pickle.text(*value)) {
                (_, Some(text)) if text.len() <= MAX_NOTE => text.to_string(),
                (Value::Int(n), _) => n.to_string(),
                (Value::Float(x), _) => x.to_string(),
                _ => continue,
            };
            if let Some(key) = pickle.text(*key).filter(|key| key.len() <= MAX_NOTE) {
                self.metadata.insert(key.into(), note);
            }
        }
    }

    /// Each dictionary is read once, wherever it occurs.
    fn flatten(
        &mut self,
        pickle: &Pickle,
        items: &Items,
        prefix: &str,
        depth: usize,
        names: &mut BTreeSet<String>,
        seen: &mut BTreeSet<*const Items>,
    ) -> Result<(), Fault> {
        if depth > MAX_DEPTH || !seen.insert(std::ptr::from_ref(items)) {
            return Ok(());
        }
        for (key, value) in items {
            let (Some(key), Some(object)) = (pickle.text(*key), pickle.object(*value)) else {
                continue;
            };
            let name = format!("{prefix}{key}");
            match object {
                Object::Tensor(tensor) => {
                    if !names.insert(name.clone()) {
                        return Err(damaged(format!("tensor {name} is there twice")));
                    }
                    self.tensors.push((name, Tensor::clone(tensor)));
                }
                Object::Dict(inner) => {
                    self.flatten(pickle, inner, &format!("{name}."), depth + 1, names, seen)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}
