//! Decodes a large picture whole, in strips and in blended tiles, one of them per run: seconds,
//! memory, and how far the picture is from another one.
//!
//! ```sh
//! cargo run --release --example tiled_decode -- --size 1024 --tiling whole --out whole.safetensors
//! cargo run --release --example tiled_decode -- --size 1024 --tiling strips --compare whole.safetensors --difference strips.png
//! ```

#[path = "support/memory.rs"]
mod memory;

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use sd_pipeline::burn::tensor::{FloatDType, Tensor};
use sd_pipeline::core::BoxError;
use sd_pipeline::models::Files;
use sd_pipeline::models::vae::{Direction, Limits, Tiling, Vae};
use sd_pipeline::{
    Autoencoder, Noise, SeededNoise, device, image_from_pixels, read_latents, write_latents,
    write_png,
};

/// Decodes a large picture whole, in strips or in blended tiles.
#[derive(Parser)]
struct Arguments {
    /// A model folder in diffusers layout [default: the embedded model]
    #[arg(long)]
    model: Option<PathBuf>,
    /// auto, whole, strips or blend
    #[arg(long, default_value = "auto")]
    tiling: String,
    /// Width and height in pixels
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Mebibytes that activations may take
    #[arg(long)]
    budget: Option<u64>,
    /// Mebibytes of the largest buffer [default: the device's]
    #[arg(long)]
    buffer: Option<u64>,
    /// Runs to take the fastest of
    #[arg(long, default_value_t = 1)]
    runs: usize,
    #[arg(long, default_value = "flex")]
    device: String,
    /// Latents to decode, a safetensors file [default: noise]
    #[arg(long)]
    latents: Option<PathBuf>,
    /// Safetensors file to keep the pixels in
    #[arg(long)]
    out: Option<PathBuf>,
    /// The picture
    #[arg(long)]
    png: Option<PathBuf>,
    /// Pixels to compare with
    #[arg(long)]
    compare: Option<PathBuf>,
    /// A picture of the difference
    #[arg(long)]
    difference: Option<PathBuf>,
    /// Times the difference is amplified
    #[arg(long, default_value_t = 1.0)]
    amplify: f64,
}

fn main() -> Result<(), BoxError> {
    let arguments = Arguments::parse();
    let device = device(&arguments.device)?;
    let files = match &arguments.model {
        Some(folder) => Files::directory(folder),
        None => sd_tiny::files(),
    };
    let vae = Vae::open(&files, "vae", &device, FloatDType::F32)?;
    let tiling = match arguments.tiling.as_str() {
        "auto" => Tiling::Auto,
        "whole" => Tiling::Whole,
        "strips" => Tiling::Strips,
        "blend" => Tiling::Blend {
            tile: vae.config().sample_size,
            overlap: 0.25,
        },
        other => return Err(format!("--tiling {other}: auto, whole, strips or blend").into()),
    };
    let bytes = |mebibytes: Option<u64>| mebibytes.map(|m| m << 20);
    let vae = vae.with_tiling(tiling).with_limits(Limits {
        largest_buffer: bytes(arguments.buffer).or(sd_pipeline::devices::largest_buffer(&device)),
        budget: bytes(arguments.budget),
    });
    let latent = match &arguments.latents {
        Some(path) => read_latents(path, &device)?,
        None => {
            let side = arguments.size / vae.spec().factor;
            let shape = [1, vae.spec().latent_channels, side, side];
            Tensor::from_data(SeededNoise::new(0, 1).normal(shape)?, &device)
        }
    };
    let size = [2, 3].map(|side| latent.dims()[side] * vae.spec().factor);
    let plan = vae.plan(Direction::Decode, size)?;
    let before = memory::peak_memory().unwrap_or(0);
    let (mut seconds, mut pixels) = (f64::INFINITY, None);
    for _ in 0..arguments.runs.max(1) {
        drop(pixels.take());
        let clock = Instant::now();
        let decoded = vae.decode(latent.clone())?;
        device.sync()?;
        seconds = seconds.min(clock.elapsed().as_secs_f64());
        pixels = Some(decoded);
    }
    let pixels = pixels.ok_or("no runs")?;
    let mebibytes = |bytes: u64| bytes >> 20;
    let peak = memory::peak_memory().unwrap_or(0);
    println!(
        "{:?} on {}, {}x{}",
        tiling, arguments.device, size[1], size[0]
    );
    println!("  strips {:?}", plan.strips);
    println!("  {seconds:.2} s");
    println!("  memory: {} MiB planned", mebibytes(plan.peak_bytes));
    println!(
        "  memory: {} MiB before, {} MiB at the peak",
        mebibytes(before),
        mebibytes(peak)
    );
    if let Some(path) = &arguments.png {
        write_png(&image_from_pixels(pixels.clone())?, path)?;
    }
    if let Some(path) = &arguments.out {
        write_latents(&pixels, path)?;
    }
    if let Some(path) = &arguments.compare {
        let difference = (pixels - read_latents(path, &device)?).abs();
        let largest = difference.clone().max().try_into_scalar::<f32>()?;
        let mean = difference.clone().mean().try_into_scalar::<f32>()?;
        // Pixels are -1 to 1, bytes 0 to 255.
        println!(
            "  difference: at most {:.2e}/255, on average {:.2e}/255",
            largest * 127.5,
            mean * 127.5
        );
        if let Some(path) = &arguments.difference {
            let shown = difference * arguments.amplify - 1.0;
            write_png(&image_from_pixels(shown)?, path)?;
        }
    }
    Ok(())
}
