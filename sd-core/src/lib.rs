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
//! k-diffusion's solvers (Euler, Heun) use `α = 1`; a network always sees `x / √(α² + σ²)`.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod autoencoder;
mod conditioning;
mod delegate;
mod denoiser;
mod error;
mod model;
mod noise;
mod plan;
mod prediction;
mod resident;
mod sampler;
mod schedule;
mod text_encoder;
mod torch_rng;

pub use autoencoder::{Autoencoder, AutoencoderSpec};
pub use conditioning::{Conditioning, TextEmbedding};
pub use denoiser::{Denoiser, DenoiserSpec};
pub use error::{BoxError, Error, Result};
pub use model::{Model, NetworkOutput};
pub use noise::{Noise, RecordedNoise, SeededNoise, noise_like};
pub use plan::{Level, Plan, Stage};
pub use prediction::{Prediction, PredictionType};
pub use resident::{Held, Resident, WeightBytes};
pub use sampler::{Sampler, SamplerState, Scheduler, Step};
pub use schedule::{BetaSchedule, NoiseSchedule};
pub use text_encoder::TextEncoder;
pub use torch_rng::TorchRng;
