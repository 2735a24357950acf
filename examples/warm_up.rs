//! Compiles and tunes before the first picture, and shows what that is worth.
//!
//! ```sh
//! cargo run --release --features wgpu --example warm_up -- --device wgpu
//! ```

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use indicatif::ProgressBar;
use sd_pipeline::core::BoxError;
use sd_pipeline::{OpenOptions, Pipeline, Request, device, devices};

/// Compiles and tunes before the first picture.
#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value = "flex")]
    device: String,
    /// A model folder in diffusers layout [default: the embedded model]
    #[arg(long)]
    model: Option<PathBuf>,
    /// Do not warm up
    #[arg(long)]
    cold: bool,
    /// A folder for what GPU backends find out, which the next process finds there
    #[arg(long)]
    cache: Option<PathBuf>,
    /// A file of what autotune chose on another machine with the same GPU, to begin with
    #[arg(long)]
    seed: Option<PathBuf>,
    /// Write such a file at the end
    #[arg(long)]
    export: Option<PathBuf>,
    /// Widths of the square pictures to prepare for, in pixels [default: the model's]
    #[arg(long)]
    size: Vec<usize>,
}

fn main() -> Result<(), BoxError> {
    let arguments = Arguments::parse();
    if let Some(folder) = &arguments.cache {
        devices::kernel_cache(folder)?;
    }
    let device = device(&arguments.device)?;
    if let Some(file) = &arguments.seed {
        let new = devices::import_kernel_choices(&device, file)?;
        println!("{new} entries taken over");
    }
    let options = OpenOptions::new(&device);
    let pipeline = match &arguments.model {
        Some(folder) => Pipeline::open(folder, &options)?,
        None => Pipeline::from_files(&sd_tiny::files(), &options)?,
    };
    let of_size = |size: Option<usize>| Request {
        width: size,
        height: size,
        steps: 4,
        ..Request::new("a red cube on top of a blue sphere")
    };
    let sizes = arguments.size.iter().map(|size| of_size(Some(*size)));
    let mut requests: Vec<Request> = sizes.collect();
    if requests.is_empty() {
        requests.push(of_size(None));
    }
    let clock = Instant::now();
    if !arguments.cold {
        let bar = ProgressBar::new(0);
        pipeline.warm_up(&requests, |at| {
            bar.set_length(at.total as u64);
            bar.set_position(at.done as u64);
            ControlFlow::Continue(())
        })?;
        println!("warm-up {:.2} s", clock.elapsed().as_secs_f64());
    }
    for request in &requests {
        let mut clock = Instant::now();
        let mut lap = |what: &str| {
            println!("{what} {:.3} s", clock.elapsed().as_secs_f64());
            clock = Instant::now();
        };
        let mut run = pipeline.start(request)?;
        device.sync()?;
        lap("text");
        for step in run.by_ref() {
            step?;
            device.sync()?;
            lap("step");
        }
        run.images()?;
        lap("decode");
    }
    if let Some(file) = &arguments.export {
        let entries = devices::export_kernel_choices(&device, file)?;
        println!("{entries} entries written");
    }
    Ok(())
}
