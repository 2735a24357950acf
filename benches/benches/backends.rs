//! Every part of the pipeline, on every backend and in every precision: the embedded tiny model,
//! the schedulers, and, where it is asked for, a model of full size.
//!
//! `cargo bench -- flex`, `cargo bench --features wgpu -- wgpu`; docs/benchmarks.md says more.

use std::path::Path;
use std::sync::Arc;

use sd_benches::{Harness, Place, full_size_folder, places};
use sd_pipeline::core::BoxError;
use sd_pipeline::models::unet::UNet;
use sd_pipeline::models::vae::Vae;
use sd_pipeline::models::{ClipTextEncoder, Files};
use sd_pipeline::schedulers::{ConfigError, SchedulerName, names};
use sd_pipeline::{NoiseSchedule, OpenOptions, Parameterization, Pipeline, Result};

fn main() -> Result<(), BoxError> {
    let mut harness = Harness::from_arguments();
    let places = places(&harness);
    for place in &places {
        networks(&mut harness, place, "tiny", &sd_tiny::files(), [16, 16]);
        harness.pipeline(place, "tiny", || {
            let options = OpenOptions {
                dtype: place.dtype(),
                ..OpenOptions::new(place.device())
            };
            Pipeline::from_files(&sd_tiny::files(), &options)
        });
    }
    // Solvers compute in f32 whatever the network's precision, so once on each device.
    let mut devices: Vec<&Place> = places.iter().collect();
    devices.dedup_by(|a, b| a.device() == b.device());
    for place in devices {
        for name in names() {
            harness.scheduler(place, name, || -> Result<_, BoxError> {
                let name: SchedulerName = name.parse().map_err(ConfigError::from)?;
                Ok(name.scheduler()?)
            });
        }
    }
    for place in &places {
        if let Some(folder) = full_size_folder(place.device())? {
            let files = Files::directory(&folder);
            networks(&mut harness, place, &label(&folder), &files, [64, 64]);
        }
    }
    Ok(harness.finish()?)
}

/// The three networks one after the other: at full size they need not be in memory together.
fn networks(harness: &mut Harness, place: &Place, model: &str, files: &Files, latent: [usize; 2]) {
    let (device, dtype) = (place.device(), place.dtype());
    harness.text_encoder(place, model, || {
        ClipTextEncoder::open(files, "text_encoder", "tokenizer", device, dtype)
    });
    harness.denoiser(place, model, || {
        let schedule = Arc::new(NoiseSchedule::stable_diffusion());
        let kind = Parameterization::Epsilon;
        UNet::open(files, "unet", schedule, kind, device, dtype)
    });
    harness.autoencoder(place, model, latent, || {
        Vae::open(files, "vae", device, dtype)
    });
}

fn label(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    match &*name {
        "bench-sd15" => "Stable Diffusion 1.5's size, 512×512".into(),
        name => name.into(),
    }
}
