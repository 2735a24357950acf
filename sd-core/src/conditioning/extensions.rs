use std::any::{Any, TypeId};
use std::fmt::Debug;

use burn::tensor::{Device, FloatDType};

use crate::Result;

/// A part of [`Conditioning`](crate::Conditioning) that the core does not know: a control picture,
/// an image prompt, what a guidance perturbs.
///
/// It is found again by its type. One with tensors in it moves and repeats them itself.
pub trait Extension: Clone + Debug + Send + Sync + 'static {
    /// Name for messages, "a control picture".
    const NAME: &'static str;

    /// The same on another device, its tensors in another precision.
    ///
    /// # Errors
    /// [`Error::Backend`](crate::Error::Backend) when a tensor cannot be read from its device.
    fn to(self, device: &Device, dtype: FloatDType) -> Result<Self> {
        let _ = (device, dtype);
        Ok(self)
    }

    /// `true` of one that says something of the picture's places, such as a mask: it has no meaning
    /// for a window of it.
    fn is_of_places(&self) -> bool {
        false
    }

    /// One sample's extension for `count` samples.
    fn repeat(self, count: usize) -> Self {
        let _ = count;
        self
    }
}

/// Extensions by their type, at most one of each.
#[derive(Debug, Clone, Default)]
pub struct Extensions(Vec<Box<dyn Erased>>);

impl Extensions {
    /// No extensions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `extension` in, in place of one of its type.
    pub fn insert<E: Extension>(&mut self, extension: E) {
        self.0.retain(|other| other.id() != TypeId::of::<E>());
        self.0.push(Box::new(extension));
    }

    /// Puts all of `others` in, in place of those of their types.
    pub fn extend(&mut self, others: Self) {
        for other in others.0 {
            self.0.retain(|own| own.id() != other.id());
            self.0.push(other);
        }
    }

    /// The extension of type `E`.
    pub fn get<E: Extension>(&self) -> Option<&E> {
        (self.0.iter()).find_map(|extension| extension.as_any().downcast_ref())
    }

    /// Takes out the extension of type `E`: it is read then.
    pub fn take<E: Extension>(&mut self) -> Option<E> {
        let found = (self.0.iter()).position(|extension| extension.id() == TypeId::of::<E>())?;
        let extension = self.0.remove(found).into_any().downcast();
        extension.ok().map(|extension| *extension)
    }

    /// `true` when there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names of all.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|extension| extension.name())
    }

    /// Name of one that [is of the picture's places](Extension::is_of_places).
    pub fn of_places(&self) -> Option<&'static str> {
        let found = self.0.iter().find(|extension| extension.is_of_places());
        found.map(|extension| extension.name())
    }

    pub(super) fn to(self, device: &Device, dtype: FloatDType) -> Result<Self> {
        let moved = self.0.into_iter().map(|e| e.to_boxed(device, dtype));
        moved.collect::<Result<_>>().map(Self)
    }

    pub(super) fn repeat(self, count: usize) -> Self {
        let all = self.0.into_iter();
        Self(all.map(|e| e.repeat_boxed(count)).collect())
    }
}

/// An [`Extension`] whose type is forgotten.
trait Erased: Debug + Send + Sync {
    fn id(&self) -> TypeId;
    fn name(&self) -> &'static str;
    fn is_of_places(&self) -> bool;
    fn as_any(&self) -> &dyn Any;
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
    fn boxed(&self) -> Box<dyn Erased>;
    fn to_boxed(self: Box<Self>, device: &Device, dtype: FloatDType) -> Result<Box<dyn Erased>>;
    fn repeat_boxed(self: Box<Self>, count: usize) -> Box<dyn Erased>;
}

impl<E: Extension> Erased for E {
    fn id(&self) -> TypeId {
        TypeId::of::<E>()
    }

    fn name(&self) -> &'static str {
        E::NAME
    }

    fn is_of_places(&self) -> bool {
        Extension::is_of_places(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    fn boxed(&self) -> Box<dyn Erased> {
        Box::new(self.clone())
    }

    fn to_boxed(self: Box<Self>, device: &Device, dtype: FloatDType) -> Result<Box<dyn Erased>> {
        Ok(Box::new((*self).to(device, dtype)?))
    }

    fn repeat_boxed(self: Box<Self>, count: usize) -> Box<dyn Erased> {
        Box::new((*self).repeat(count))
    }
}

impl Clone for Box<dyn Erased> {
    fn clone(&self) -> Self {
        (**self).boxed()
    }
}
