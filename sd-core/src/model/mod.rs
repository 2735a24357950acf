//! The denoiser as a solver sees it, and the layers around it.

mod blended;
mod guided;
mod known;
mod layer;
mod masked;
mod soft_mask;

use burn::tensor::Tensor;

use crate::{Level, Parameterization, Result};

pub use blended::Blend;
pub use guided::{BranchEvaluation, Guided};
pub use layer::{Layer, Mask, RunStart, StartedLayer};
pub use masked::Masked;
pub use soft_mask::SoftMask;

/// The denoiser as a [`Sampler`](crate::Sampler) sees it: guidance, input scaling and the meaning
/// of the output are settled, so a solver is nothing but its formula.
///
/// A model is made to be wrapped: a layer that holds another model and changes what it is asked or
/// what it answers works with every solver, as [`Masked`] does. [`Guided`] is the innermost.
pub trait Model {
    /// Meaning of the network's raw output.
    fn parameterization(&self) -> Parameterization;

    /// Evaluates the model on `x` `[n, c, h, w]`, f32, a latent at `level`.
    ///
    /// # Errors
    /// Those of the network; [`Error::Cancelled`](crate::Error::Cancelled) when the run's
    /// [`Cancel`](crate::Cancel) was pulled.
    fn predict(&mut self, x: &Tensor<4>, level: Level) -> Result<Prediction>;

    /// Reads a raw output, or a combination of several, as the answer for the latent `x` at
    /// `level`, without an evaluation: what solvers do that combine raw outputs (PNDM) or read one
    /// at a raised noise level (Euler's churn).
    fn read(&self, x: &Tensor<4>, level: Level, raw: Tensor<4>) -> Prediction;

    /// Number of evaluations so far, guidance's branches counted once: a solver's honest cost.
    fn evaluations(&self) -> usize;
}

macro_rules! delegate {
    ($($pointer:ty),*) => {$(
        impl<M: Model + ?Sized> Model for $pointer {
            fn parameterization(&self) -> Parameterization {
                (**self).parameterization()
            }

            fn predict(&mut self, x: &Tensor<4>, level: Level) -> Result<Prediction> {
                (**self).predict(x, level)
            }

            fn read(&self, x: &Tensor<4>, level: Level, raw: Tensor<4>) -> Prediction {
                (**self).read(x, level, raw)
            }

            fn evaluations(&self) -> usize {
                (**self).evaluations()
            }
        }
    )*};
}

delegate!(&mut M, Box<M>);

/// Answer of a [`Model`] for a latent, after guidance.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// The network's guided output, of the meaning [`Model::parameterization`] says; what PNDM
    /// combines.
    pub raw: Tensor<4>,
    /// The clean latent x₀ it implies.
    pub denoised: Tensor<4>,
    /// The noise ε it implies.
    pub noise: Tensor<4>,
    /// x₀ as the unconditional branch alone sees it, when guidance ran; what CFG++ needs.
    pub uncond_denoised: Option<Tensor<4>>,
    /// Learned variance of a network with twice the channels in its output, of the latent's shape
    /// (Nichol & Dhariwal 2021, arXiv:2102.09672); what DDPM's learned variances need.
    pub variance: Option<Tensor<4>>,
}
