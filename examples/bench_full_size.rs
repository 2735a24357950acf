//! Times the networks of a model at full size: text encoder, one U-Net step, VAE decode and encode.
//!
//! `cargo run --release --example bench_full_size -- DIR [--threads N] [--runs N] [--size 512]`
//!
//! DIR is a folder in diffusers layout; only `text_encoder`, `unet` and `vae` are read. One line of
//! JSON per measurement: seconds is the least of the runs, after one that is not counted.

#[path = "support/memory.rs"]
mod memory;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use sd_pipeline::burn::tensor::{Device, FloatDType, Tensor};
use sd_pipeline::core::BoxError;
use sd_pipeline::models::unet::UNet;
use sd_pipeline::models::vae::Vae;
use sd_pipeline::models::{ClipTextConfig, ClipTextModel, Files, LoadOptions};
use sd_pipeline::{
    Autoencoder, Conditioning, Denoiser, Noise, NoiseSchedule, PredictionType, SeededNoise, device,
};

/// Times the networks of a model at full size.
#[derive(Parser)]
struct Arguments {
    /// A model folder in diffusers layout
    dir: PathBuf,
    /// Threads to compute with [default: one per core]
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Runs to take the fastest of
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Width and height of the picture in pixels
    #[arg(long, default_value_t = 512)]
    size: usize,
    /// Samples in the U-Net's batch; 2 is one step with guidance
    #[arg(long, default_value_t = 2)]
    batch: usize,
    #[arg(long, default_value = "flex")]
    device: String,
}

fn main() -> Result<(), BoxError> {
    let arguments = Arguments::parse();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads);
    pool.build()?.install(|| bench(&arguments))
}

fn bench(arguments: &Arguments) -> Result<(), BoxError> {
    let device = device(&arguments.device)?;
    let (files, f32) = (Files::directory(&arguments.dir), FloatDType::F32);
    let (side, batch) = (arguments.size / 8, arguments.batch);
    let mut noise = SeededNoise::new(0, batch);
    let latents = noise.normal([batch, 4, side, side])?;
    let latents = Tensor::<4>::from_data(latents, &device);
    let report = |work: &str, run: &dyn Fn() -> Result<Tensor<1>, BoxError>| {
        report(arguments, &device, work, run)
    };

    let folder = files.folder("text_encoder");
    let (config, weights) = (
        ClipTextConfig::read(&folder)?,
        folder.weights("model", None)?,
    );
    let (text, _) = ClipTextModel::load(config, &weights, &LoadOptions::new(&device))?;
    let ids = vec![(0..77).map(|i| i * 631 % 49406).collect::<Vec<u32>>(); 2];
    let run = || Ok(text.forward(&ids)?.last_hidden_state.flatten(0, 2));
    report("text encoder, batch 2", &run)?;
    drop(text);

    let schedule = Arc::new(NoiseSchedule::stable_diffusion());
    let unet = UNet::open(
        &files,
        "unet",
        schedule,
        PredictionType::Epsilon,
        &device,
        f32,
    )?;
    let context = Tensor::ones([batch, 77, unet.spec().context_width], &device);
    let context = unet.prepare(Conditioning::new(context))?;
    let run = || {
        Ok(unet
            .predict(latents.clone(), 500.0, &context)?
            .flatten(0, 3))
    };
    report(&format!("UNet step, batch {batch}"), &run)?;
    drop(unet);

    let vae = Vae::open(&files, "vae", &device, f32)?;
    let latent = latents.narrow(0, 0, 1);
    let run = || Ok(vae.decode(latent.clone())?.flatten(0, 3));
    report("VAE decode", &run)?;
    let image = Tensor::ones([1, 3, arguments.size, arguments.size], &device);
    let run = || Ok(vae.encode(image.clone(), None)?.flatten(0, 3));
    report("VAE encode", &run)
}

fn report(
    arguments: &Arguments,
    device: &Device,
    work: &str,
    run: &dyn Fn() -> Result<Tensor<1>, BoxError>,
) -> Result<(), BoxError> {
    let mut best = f64::INFINITY;
    for round in 0..=arguments.runs {
        let clock = Instant::now();
        // Reading one number waits for a device that computes lazily.
        run()?.narrow(0, 0, 1).try_into_scalar::<f32>()?;
        device.sync()?;
        if round > 0 {
            best = best.min(clock.elapsed().as_secs_f64());
        }
    }
    let line = serde_json::json!({
        "peer": "ours",
        "work": work,
        "seconds": (best * 1000.0).round() / 1000.0,
        "peak_rss_gb": memory::peak_memory().map(|bytes| (bytes as f64 / 1e7).round() / 100.0),
    });
    println!("{line}");
    Ok(())
}
