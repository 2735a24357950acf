//! A program's own components, measured with the same harness: a denoiser without weights and a
//! scheduler that is the library's with other settings.
//!
//! `cargo bench --bench own_component`

use std::sync::Arc;

use burn::tensor::Tensor;
use sd_benches::{Harness, Place, places};
use sd_pipeline::core::{BoxError, Result};
use sd_pipeline::schedulers::Euler;
use sd_pipeline::{Conditioning, Denoiser, DenoiserSpec, NoiseSchedule, PredictionType};

/// The best guess of one who has seen no picture: with normally distributed latents, x₀ and ε are
/// equally likely shares of what is seen.
struct Shrug(DenoiserSpec);

impl Denoiser for Shrug {
    fn spec(&self) -> &DenoiserSpec {
        &self.0
    }

    fn predict(&self, x: Tensor<4>, t: f64, _: &Conditioning) -> Result<Tensor<4>> {
        let sigma = self.0.schedule.level(t.round() as usize).sigma;
        Ok(x * sigma)
    }
}

fn shrug(place: &Place) -> Result<Shrug> {
    Ok(Shrug(DenoiserSpec {
        schedule: Arc::new(NoiseSchedule::stable_diffusion()),
        prediction: PredictionType::Epsilon,
        latent_channels: 4,
        sample_size: [64, 64],
        context_width: 768,
        device: place.device().clone(),
        dtype: place.dtype(),
    }))
}

fn main() -> Result<(), BoxError> {
    let mut harness = Harness::from_arguments();
    for place in places(&harness) {
        harness.denoiser(&place, "own", || shrug(&place));
        harness.scheduler(&place, "own Euler", || -> Result<_> {
            Ok(Euler::default())
        });
    }
    Ok(harness.finish()?)
}
