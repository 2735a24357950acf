//! Functions and classes that a checkpoint's pickle may have called, and number types it may name.

use burn::tensor::DType;

/// What calling one of the known functions makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Callable {
    /// An empty dictionary, or one of pairs.
    Dict,
    /// A view of a storage: (storage, offset, size, stride, …); with the number type behind
    /// `requires_grad` and `hooks` where the storage has none.
    Tensor,
    /// The first argument, which is a tensor, and what hangs on it, which is dropped.
    First,
    /// The result of the function that is its first argument, with those that are its third: the
    /// tensor, whose class is dropped.
    Inner,
    /// The tuple that is its argument.
    Size,
    /// Something that is no tensor and that nothing here reads: it is not made.
    Nothing,
}

/// All that may be called.
const CALLABLES: &[(&str, Callable)] = &[
    ("collections.OrderedDict", Callable::Dict),
    ("torch._utils._rebuild_tensor", Callable::Tensor),
    ("torch._utils._rebuild_tensor_v2", Callable::Tensor),
    ("torch._utils._rebuild_tensor_v3", Callable::Tensor),
    ("torch._utils._rebuild_parameter", Callable::First),
    (
        "torch._utils._rebuild_parameter_with_state",
        Callable::First,
    ),
    ("torch._tensor._rebuild_from_type_v2", Callable::Inner),
    ("torch.Size", Callable::Size),
    ("torch.device", Callable::Nothing),
    // Numbers of numpy's, as trainers put them beside the tensors, and what their bytes are in.
    ("numpy.core.multiarray.scalar", Callable::Nothing),
    ("numpy._core.multiarray.scalar", Callable::Nothing),
    ("numpy.core.multiarray._reconstruct", Callable::Nothing),
    ("numpy._core.multiarray._reconstruct", Callable::Nothing),
    ("numpy.dtype", Callable::Nothing),
    ("_codecs.encode", Callable::Nothing),
    ("__builtin__.set", Callable::Nothing),
    ("builtins.set", Callable::Nothing),
];

/// What calling `name` makes; `None` for what is never called.
pub(super) fn callable(name: &str) -> Option<Callable> {
    let found = CALLABLES.iter().find(|(known, _)| *known == name);
    found.map(|(_, callable)| *callable)
}

/// Classes of which an object may be made by `NEWOBJ`: torch's dictionary of parameters, in textual
/// inversions of before torch 1.12.
pub(super) fn is_dict(class: &str) -> bool {
    class == "torch.nn.modules.container.ParameterDict" || class == "collections.OrderedDict"
}

/// A number type of torch's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Element {
    /// The name that safetensors has for it.
    pub(super) name: &'static str,
    pub(super) dtype: Option<DType>,
    pub(super) size: usize,
}

/// torch's storage class, its number type, and safetensors' name.
const ELEMENTS: &[(&str, &str, Element)] = &[
    row("Double", "float64", "F64", Some(DType::F64), 8),
    row("Float", "float32", "F32", Some(DType::F32), 4),
    row("Half", "float16", "F16", Some(DType::F16), 2),
    row("BFloat16", "bfloat16", "BF16", Some(DType::BF16), 2),
    row("Long", "int64", "I64", None, 8),
    row("Int", "int32", "I32", None, 4),
    row("Short", "int16", "I16", None, 2),
    row("Char", "int8", "I8", None, 1),
    row("Byte", "uint8", "U8", None, 1),
    row("Bool", "bool", "BOOL", None, 1),
    row("", "uint16", "U16", None, 2),
    row("", "uint32", "U32", None, 4),
    row("", "uint64", "U64", None, 8),
    row("", "float8_e4m3fn", "F8_E4M3", None, 1),
    row("", "float8_e5m2", "F8_E5M2", None, 1),
];

const fn row(
    storage: &'static str,
    torch: &'static str,
    name: &'static str,
    dtype: Option<DType>,
    size: usize,
) -> (&'static str, &'static str, Element) {
    (storage, torch, Element { name, dtype, size })
}

/// A storage without a number type, which each of its tensors has for itself.
pub(super) const UNTYPED: Element = Element {
    name: "U8",
    dtype: None,
    size: 1,
};

/// Number type of a storage's class.
pub(super) fn storage(class: &str) -> Option<Element> {
    if class == "torch.storage.UntypedStorage" {
        return Some(UNTYPED);
    }
    let name = class.strip_prefix("torch.")?.strip_suffix("Storage")?;
    let found = ELEMENTS
        .iter()
        .find(|(storage, ..)| *storage == name && !name.is_empty());
    found.map(|(_, _, element)| *element)
}

/// Number type of a name such as `torch.float16`.
pub(super) fn number_type(name: &str) -> Option<Element> {
    let name = name.strip_prefix("torch.")?;
    let found = ELEMENTS.iter().find(|(_, torch, _)| *torch == name);
    found.map(|(_, _, element)| *element)
}
