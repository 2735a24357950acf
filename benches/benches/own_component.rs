//! A program's own components, measured with the same harness: a denoiser without weights and a
//! scheduler that is the library's with other settings.
//!
//! `cargo bench --bench own_component`

use std::sync::Arc;

use sd_benches::{Harness, Place, places};
use sd_pipeline::core::{BoxError, Result};
use sd_pipeline::schedulers::Euler;
use sd_pipeline::{Conditioning, Denoiser, DenoiserSpec, Network, each_branch};

/// The best guess of one who has seen no picture: with normally distributed latents, x₀ and ε are
/// equally likely shares of what is seen.
struct Shrug(DenoiserSpec);

impl Denoiser for Shrug {
    fn spec(&self) -> &DenoiserSpec {
        &self.0
    }

    fn prepare(self: Arc<Self>, branches: Vec<Conditioning>) -> Result<Box<dyn Network>> {
        each_branch("a shrug", branches, move |x, t, _| {
            let sigma = self.0.schedule.level(t.round() as usize).sigma;
            Ok(x.clone() * sigma)
        })
    }
}

fn shrug(place: &Place) -> Result<Shrug> {
    let mut spec = DenoiserSpec::new(place.device());
    spec.dtype = place.dtype();
    Ok(Shrug(spec))
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
