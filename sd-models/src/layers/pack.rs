//! Reading a network's weights as the kernels want them.

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor};
use sd_core::WeightBytes;
use sd_kernels::Packing;

use super::{Addition, AnySide};
use crate::Result;
use crate::weights::{Rows, Weights};

/// A module whose layers can hold their weights as the kernels want them.
pub(crate) trait Pack {
    /// Adds each of those layers to `layers`. `name` is this module's in a checkpoint.
    fn layers<'a>(&'a mut self, name: &str, layers: &mut Vec<Unpacked<'a>>);

    /// Makes of the weights what the layers want besides, when all have been read. Nothing, by
    /// default.
    fn loaded(&mut self) {}
}

/// A layer that packs its weight and bias itself.
pub(crate) trait PackLayer: Send {
    /// Reads and packs the tensors `{name}.weight` and, if there is one, `{name}.bias`. Gives the
    /// bytes they now take.
    fn pack(&mut self, name: &str, weights: &Weights, packing: Packing) -> Result<WeightBytes>;

    /// The bytes that these tensors will take, without reading them unless a layer may be in int8.
    fn packed_bytes(&self, name: &str, weights: &Weights, packing: Packing) -> Result<WeightBytes>;

    /// `addition` as what can be [put beside](Self::put_beside) this layer; `None`, the default, of
    /// one that nothing can be beside.
    fn side(&self, addition: Addition, device: &Device, dtype: DType) -> Option<Result<AnySide>> {
        let _ = (addition, device, dtype);
        None
    }

    /// `true` where `side` fits the layer.
    fn accepts(&self, side: &AnySide) -> bool {
        let _ = side;
        false
    }

    /// Adds `factor` times the product of `side`, which it [accepts](Self::accepts), to the layer's
    /// own from now on.
    fn put_beside(&mut self, side: &AnySide, factor: f32) {
        let _ = (side, factor);
    }
}

/// The bytes of a packed weight, of which `weight` says how many, and of its bias of so many
/// numbers.
pub(super) fn bytes_of(
    name: &str,
    weights: &Weights,
    bias: usize,
    weight: impl FnOnce(&Rows<'_>) -> Result<usize>,
) -> Result<WeightBytes> {
    let bytes = weight(&weights.rows(name)?)? + bias * size_of::<f32>();
    Ok(WeightBytes {
        plain: 0,
        packed: bytes as u64,
    })
}

/// The bytes of a weight and a bias that are loaded and not packed.
pub(super) fn size<const D: usize>(
    weight: &Param<Tensor<D>>,
    bias: Option<&Param<Tensor<1>>>,
) -> WeightBytes {
    fn bytes<const D: usize>(of: &Param<Tensor<D>>) -> usize {
        of.lazy_shape().num_elements() * of.val().dtype().size()
    }
    let plain = bytes(weight) + bias.map_or(0, bytes);
    WeightBytes {
        plain: plain as u64,
        packed: 0,
    }
}

/// A layer still to be packed.
pub(crate) struct Unpacked<'a> {
    pub(crate) name: String,
    pub(crate) layer: &'a mut dyn PackLayer,
}

/// The name of what `part` is in `name`.
pub(crate) fn join(name: &str, part: impl std::fmt::Display) -> String {
    if name.is_empty() {
        part.to_string()
    } else {
        format!("{name}.{part}")
    }
}

impl<T: Pack> Pack for Option<T> {
    fn layers<'a>(&'a mut self, name: &str, layers: &mut Vec<Unpacked<'a>>) {
        if let Some(module) = self {
            module.layers(name, layers);
        }
    }

    fn loaded(&mut self) {
        self.iter_mut().for_each(T::loaded);
    }
}

impl<T: Pack> Pack for [T] {
    fn layers<'a>(&'a mut self, name: &str, layers: &mut Vec<Unpacked<'a>>) {
        for (index, module) in self.iter_mut().enumerate() {
            module.layers(&join(name, index), layers);
        }
    }

    fn loaded(&mut self) {
        self.iter_mut().for_each(T::loaded);
    }
}

impl<T: Pack, const N: usize> Pack for [T; N] {
    fn layers<'a>(&'a mut self, name: &str, layers: &mut Vec<Unpacked<'a>>) {
        self.as_mut_slice().layers(name, layers);
    }

    fn loaded(&mut self) {
        self.as_mut_slice().loaded();
    }
}

impl<T: Pack> Pack for Vec<T> {
    fn layers<'a>(&'a mut self, name: &str, layers: &mut Vec<Unpacked<'a>>) {
        self.as_mut_slice().layers(name, layers);
    }

    fn loaded(&mut self) {
        self.as_mut_slice().loaded();
    }
}

/// Implements [`Pack`] for a module by the fields named, which are called as in checkpoints.
macro_rules! pack_fields {
    ($module:ty: $($field:ident),+) => {
        impl $crate::layers::Pack for $module {
            fn layers<'a>(
                &'a mut self,
                name: &str,
                layers: &mut Vec<$crate::layers::Unpacked<'a>>,
            ) {
                $({
                    let name = $crate::layers::join(name, stringify!($field));
                    $crate::layers::Pack::layers(&mut self.$field, &name, layers);
                })+
            }

            fn loaded(&mut self) {
                $($crate::layers::Pack::loaded(&mut self.$field);)+
            }
        }
    };
}
pub(crate) use pack_fields;

/// Implements [`Pack`] for a layer that is a [`PackLayer`].
macro_rules! pack_itself {
    ($($layer:ty),+) => {$(
        impl $crate::layers::Pack for $layer {
            fn layers<'a>(
                &'a mut self,
                name: &str,
                layers: &mut Vec<$crate::layers::Unpacked<'a>>,
            ) {
                layers.push($crate::layers::Unpacked { name: name.into(), layer: self });
            }
        }
    )+};
}
pub(crate) use pack_itself;
