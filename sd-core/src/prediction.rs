use burn::tensor::Tensor;

use crate::Level;

/// What a network's raw output means.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum PredictionType {
    /// The noise ε (Ho et al. 2020, arXiv:2006.11239). Stable Diffusion 1 and XL.
    Epsilon,
    /// `v = α·ε − σ·x₀` (Salimans & Ho 2022, arXiv:2202.00512). Stable Diffusion 2 at 768².
    VPrediction,
    /// The clean latent x₀ itself.
    Sample,
}

impl PredictionType {
    /// diffusers' spelling: `epsilon`, `v_prediction`, `sample`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::VPrediction => "v_prediction",
            Self::Sample => "sample",
        }
    }

    /// x₀ from the latent `x` at `level` and the network's output there.
    pub fn denoised(self, x: Tensor<4>, level: Level, raw: Tensor<4>) -> Tensor<4> {
        let (alpha, sigma, scale) = (level.alpha, level.sigma, level.scale());
        match self {
            Self::Epsilon => (x - raw * sigma) / alpha,
            // In the network's own variance-preserving scale, v = α̂ε − σ̂x₀ gives
            // x₀ = α̂x̂ − σ̂v with x̂ = x/s, α̂ = α/s, σ̂ = σ/s.
            Self::VPrediction => x * (alpha / (scale * scale)) - raw * (sigma / scale),
            Self::Sample => raw,
        }
    }

    /// ε from the latent `x` at `level` and the network's output there.
    pub fn noise(self, x: Tensor<4>, level: Level, raw: Tensor<4>) -> Tensor<4> {
        let (alpha, sigma, scale) = (level.alpha, level.sigma, level.scale());
        match self {
            Self::Epsilon => raw,
            Self::VPrediction => x * (sigma / (scale * scale)) + raw * (alpha / scale),
            Self::Sample => (x - raw * alpha) / sigma,
        }
    }
}

/// What the model says of a latent, after guidance.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// The guided network output, as [`PredictionType`] says; what PNDM combines.
    pub raw: Tensor<4>,
    /// The clean latent x₀ it implies.
    pub denoised: Tensor<4>,
    /// The noise ε it implies.
    pub noise: Tensor<4>,
    /// x₀ as the unconditional branch alone sees it, when guidance ran; what CFG++ needs.
    pub uncond_denoised: Option<Tensor<4>>,
    /// What a network with twice the channels in its output says of its variance, of the latent's
    /// shape; what DDPM's learned variances need.
    pub variance: Option<Tensor<4>>,
}
