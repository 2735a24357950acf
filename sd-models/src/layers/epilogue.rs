use burn::tensor::Tensor;
use sd_kernels::Activation;

/// Operations behind a layer's product, `activation(product + shift) + residual`, of which only what
/// is above zero may be wanted: on their way to memory the results go through them at no further
/// pass over it.
#[derive(Debug)]
pub struct Epilogue<const D: usize> {
    /// One number per output channel, for each sample or for all: of the output's dimensions, those
    /// are 1 that it is the same along.
    pub shift: Option<Tensor<D>>,
    /// The function that each sum goes through.
    pub activation: Activation,
    /// A tensor of the output's shape.
    pub residual: Option<Tensor<D>>,
    /// `true` when results below zero become zero behind all of that (ReLU).
    pub rectified: bool,
}

impl<const D: usize> Epilogue<D> {
    /// The product as it is.
    pub const NONE: Self = Self {
        shift: None,
        activation: Activation::None,
        residual: None,
        rectified: false,
    };

    /// The product with `shift` added.
    pub(crate) fn shift(shift: Tensor<D>) -> Self {
        Self {
            shift: Some(shift),
            ..Self::NONE
        }
    }

    /// The product through `activation`.
    pub(crate) fn activation(activation: Activation) -> Self {
        Self {
            activation,
            ..Self::NONE
        }
    }

    /// The product added to `residual`.
    pub fn residual(residual: Tensor<D>) -> Self {
        Self {
            residual: Some(residual),
            ..Self::NONE
        }
    }
}
