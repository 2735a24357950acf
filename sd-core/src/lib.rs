//! The four parts of a latent-diffusion program, as traits, and the words they share.
//!
//! A picture is made by four components, each swappable on its own:
//!
//! | trait | in | out |
//! |---|---|---|
//! | [`TextEncoder`] | prompts | embeddings `[n, tokens, width]` |
//! | [`Denoiser`] | a noisy latent `[n, c, h, w]`, a timestep, the embeddings | the network's prediction, same shape |
//! | [`Scheduler`] | a number of steps | a [`Plan`] of noise levels and a [`Sampler`] that walks it |
//! | [`Autoencoder`] | pixels `[n, 3, 8h, 8w]` in `[-1, 1]` | latents `[n, 4, h, w]`, and back |
//!
//! All of them take `&self`, are object-safe and `Send + Sync`: a loaded model serves many
//! generations at once, and everything that changes during one generation lives in the
//! [`Sampler`] that [`Scheduler::start`] makes for it.
//!
//! One notation runs through the crate: a noisy latent is `x = α·x₀ + σ·ε` with `x₀` the clean
//! latent and `ε` standard normal noise. A [`Level`] holds `α`, `σ` and the timestep `t` the
//! network is told. Variance-preserving solvers (DDIM, DPM-Solver) use `α² + σ² = 1`,
//! k-diffusion's solvers (Euler, Heun) use `α = 1`, a flow has `α + σ = 1`; a network always sees
//! the latent in its own scale.
//!
//! Between solver and network stand three values, each replaceable without the others: the
//! [`Parameterization`] says what an output means, [`Guidance`] which branches are evaluated and
//! how their outputs become one, and a [`Model`] is what a solver asks, with layers such as
//! [`Masked`] around it.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod autoencoder;
mod cancel;
mod conditioning;
mod delegate;
mod denoiser;
mod denoiser_pair;
mod error;
mod guidance;
mod model;
mod noise;
mod parameterization;
mod plan;
mod prompt;
mod sampler;
mod saved_state;
mod schedule;
mod syntax;
mod text_and_picture;
mod text_encoder;
mod tiled_denoiser;
mod torch_rng;
mod weight_bytes;

pub use autoencoder::{Autoencoder, AutoencoderSpec};
pub use cancel::Cancel;
pub use conditioning::{
    Conditioning, Extension, Extensions, SizeConditioning, TextEmbedding, placed,
};
pub use denoiser::{Denoiser, DenoiserSpec, Network, each_branch};
pub use denoiser_pair::DenoiserPair;
pub use error::{BoxError, Error, Result};
pub use guidance::{
    At, ClassifierFree, Combination, Composed, Contrast, Embedded, Guidance, Guide, Linear,
    NetworkOutput, PerpendicularNegative, Perturbation, Perturbed, Projected, ScaleCurve,
    SecondNetwork, Text, Thresholded, Unguided, ZeroStar, exactly,
};
pub use model::{
    Blend, BranchEvaluation, Guided, Layer, Mask, Masked, Model, Prediction, RunStart, SoftMask,
    StartedLayer,
};
pub use noise::{Noise, RecordedNoise, SeededNoise, noise_like};
pub use parameterization::{Coefficients, Parameterization};
pub use plan::{Level, Plan, Stage};
pub use prompt::Prompt;
pub use sampler::{Sampler, Scheduler, Step};
pub use saved_state::SavedState;
pub use schedule::{BetaSchedule, NoiseSchedule};
pub use syntax::{Emphasis, Syntax};
pub use text_and_picture::TextAndPicture;
pub use text_encoder::{AbsentPrompt, TextEncoder};
pub use tiled_denoiser::{TiledDenoiser, Tiles};
pub use torch_rng::TorchRng;
pub use weight_bytes::WeightBytes;
