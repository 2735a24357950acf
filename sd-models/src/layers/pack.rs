//! Handing a network's weights over to the kernels.

/// A module whose layers can keep their weights as the kernels want them.
pub(crate) trait Pack {
    /// Replaces every weight by its packed form, one after the other, so that never much more than
    /// one copy of all is held. Pictures will have about `side` × `side` pixels here; it decides
    /// between algorithms, not over what is possible.
    fn pack(&mut self, side: usize);
}

impl<T: Pack> Pack for Option<T> {
    fn pack(&mut self, side: usize) {
        self.iter_mut().for_each(|layer| layer.pack(side));
    }
}

impl<T: Pack, const N: usize> Pack for [T; N] {
    fn pack(&mut self, side: usize) {
        self.iter_mut().for_each(|layer| layer.pack(side));
    }
}

impl<T: Pack> Pack for Vec<T> {
    fn pack(&mut self, side: usize) {
        self.iter_mut().for_each(|layer| layer.pack(side));
    }
}

/// Implements [`Pack`] for a module by packing the fields named, at the module's own resolution.
macro_rules! pack_fields {
    ($module:ty: $($field:ident),+) => {
        impl $crate::layers::Pack for $module {
            fn pack(&mut self, side: usize) {
                $($crate::layers::Pack::pack(&mut self.$field, side);)+
            }
        }
    };
}
pub(crate) use pack_fields;
