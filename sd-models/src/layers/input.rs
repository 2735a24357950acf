use burn::tensor::Tensor;

/// A tensor that a layer reads: given away, so that its memory can be used again, or with `&mut`
/// only lent. A clone would be a copy on the CPU, where the kernels read a tensor's numbers in
/// place only while nobody else holds it.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "made for one call, moved and never stored"
)]
pub enum Input<'a, const D: usize> {
    /// A tensor that is the layer's own.
    Given(Tensor<D>),
    /// A tensor that is the caller's again, unchanged, when the layer is done.
    Lent(&'a mut Tensor<D>),
}

impl<const D: usize> From<Tensor<D>> for Input<'_, D> {
    fn from(x: Tensor<D>) -> Self {
        Self::Given(x)
    }
}

impl<'a, const D: usize> From<&'a mut Tensor<D>> for Input<'a, D> {
    fn from(x: &'a mut Tensor<D>) -> Self {
        Self::Lent(x)
    }
}

impl<const D: usize> Input<'_, D> {
    /// The tensor itself, as it is.
    pub(super) fn get(&self) -> &Tensor<D> {
        match self {
            Self::Given(x) => x,
            Self::Lent(x) => x,
        }
    }

    /// The tensor lent, whosever it is.
    pub(super) fn lend(&mut self) -> Input<'_, D> {
        match self {
            Self::Given(x) => Input::Lent(x),
            Self::Lent(x) => Input::Lent(x),
        }
    }

    /// A tensor for Burn's operations, which share memory.
    pub(crate) fn into_tensor(self) -> Tensor<D> {
        match self {
            Self::Given(x) => x,
            Self::Lent(x) => x.clone(),
        }
    }
}
