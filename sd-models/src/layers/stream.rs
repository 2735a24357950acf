use burn::tensor::Tensor;

use super::LayerNorm;
#[cfg(feature = "cubecl")]
use super::gpu;

/// Tokens `[n, tokens, width]` on their way from one layer to the next (the residual stream): what
/// each layer adds to, and what is normalised before the next.
///
/// On a GPU the last product may still want its bias and what it is added to: then both are added
/// while the sum is normalised, in one kernel.
#[derive(Debug)]
pub(crate) struct Stream(State);

#[derive(Debug)]
enum State {
    Finished(Tensor<3>),
    #[cfg(feature = "cubecl")]
    Unfinished(gpu::Unfinished),
}

impl From<Tensor<3>> for Stream {
    fn from(x: Tensor<3>) -> Self {
        Self(State::Finished(x))
    }
}

#[cfg(feature = "cubecl")]
impl From<gpu::Unfinished> for Stream {
    fn from(x: gpu::Unfinished) -> Self {
        Self(State::Unfinished(x))
    }
}

impl Stream {
    /// The tokens, and themselves through `norm`.
    pub(crate) fn normed(self, norm: &LayerNorm) -> [Tensor<3>; 2] {
        match self.0 {
            State::Finished(mut x) => {
                let normed = norm.forward(&mut x);
                [x, normed]
            }
            #[cfg(feature = "cubecl")]
            State::Unfinished(x) => x.normed(norm),
        }
    }

    /// The tokens.
    pub(crate) fn finished(self) -> Tensor<3> {
        match self.0 {
            State::Finished(x) => x,
            #[cfg(feature = "cubecl")]
            State::Unfinished(x) => x.finished(),
        }
    }
}
