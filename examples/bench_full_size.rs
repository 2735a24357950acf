//! Times the networks of a model at full size: text encoder, one U-Net step, VAE decode and encode,
//! the safety checker.
//!
//! `cargo run --release --example bench_full_size -- DIR [--threads N] [--runs N] [--size 512]
//! [--batch 2] [--only unet] [--dtype bf16] [--compute int8] [--weights q8] [--error] [--classes] [--lora 8]`
//!
//! DIR is a folder in diffusers layout; only `text_encoder`, `unet`, `vae` and, where it is there,
//! `safety_checker` are read. One line of JSON per measurement: seconds is the least of the runs, after one that is not counted. The text
//! encoder always sees two prompts and the VAE one picture. `benches/rounds.py` runs this beside
//! PyTorch and OpenVINO.

#[path = "support/class_errors.rs"]
mod class_errors;
#[path = "support/lora_cost.rs"]
mod lora_cost;
#[path = "support/memory.rs"]
mod memory;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use sd_pipeline::burn::tensor::{DType, Device, FloatDType, Tensor};
use sd_pipeline::core::{BoxError, Conditioning, SizeConditioning};
use sd_pipeline::models::unet::{UNetConfig, UNetFiles};
use sd_pipeline::models::vae::VaeFiles;
use sd_pipeline::models::{
    ClipTextConfig, ClipTextModel, ConfigFile, Files, LoadOptions, WeightStorage,
};
use sd_pipeline::{
    Autoencoder, Cancel, ConceptChecker, Denoiser, Network, Noise, NoiseSchedule, Parameterization,
    RgbImage, SeededNoise, TextEmbedding, device,
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
    /// Only the work in whose name this is: text, unet, decode, encode, safety
    #[arg(long, default_value = "")]
    only: String,
    /// Stop this many U-Net steps in their middle, at places spread over them, and report the
    /// longest wait for an answer
    #[arg(long, default_value_t = 0)]
    cancel: usize,
    /// Measure a LoRA of this rank on the U-Net's transformers too: how long it takes to be opened,
    /// merged, put beside the layers, and a step with it
    #[arg(long)]
    lora: Option<usize>,
    /// Have that LoRA change the residual blocks' convolutions too
    #[arg(long, requires = "lora")]
    lora_convolutions: bool,
    #[arg(long, default_value = "flex")]
    device: String,
    /// Precision to compute in; bf16 on flex: that of the products
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    dtype: Precision,
    /// Precision of the U-Net's linear layers and convolutions in place of that, where they lose little
    /// by it
    #[arg(long, value_enum)]
    compute: Option<Compute>,
    /// Weights in memory
    #[arg(long, value_enum, default_value_t = Storage::F32)]
    weights: Storage,
    /// Report how far results are from those in f32: RMS, relative
    #[arg(long)]
    error: bool,
    /// Report how far the U-Net's output is from that in f32 where one class of its layers alone is
    /// in a lower precision, as a table, instead of its time
    #[arg(long)]
    classes: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Precision {
    F32,
    F16,
    Bf16,
}

#[derive(Clone, Copy, ValueEnum)]
enum Compute {
    Int8,
}

#[derive(Clone, Copy, ValueEnum)]
enum Storage {
    F32,
    AsStored,
    Q8,
    Q4,
}

impl Arguments {
    /// True where any of these is asked for.
    fn wants(&self, works: &[&str]) -> bool {
        let only = self.only.to_lowercase();
        works.iter().any(|work| work.to_lowercase().contains(&only))
    }

    /// What a network is loaded with.
    fn options(&self, device: &Device) -> LoadOptions {
        let options = LoadOptions {
            weight_storage: match self.weights {
                Storage::F32 => WeightStorage::F32,
                Storage::AsStored => WeightStorage::AsStored,
                Storage::Q8 => WeightStorage::Q8,
                Storage::Q4 => WeightStorage::Q4,
            },
            ..LoadOptions::new(device)
        };
        options.by_kernels(match self.dtype {
            Precision::F32 => FloatDType::F32,
            Precision::F16 => FloatDType::F16,
            Precision::Bf16 => FloatDType::BF16,
        })
    }

    /// What the U-Net is loaded with.
    fn unet_options(&self, options: &LoadOptions) -> LoadOptions {
        match self.compute {
            Some(Compute::Int8) => options.clone().with_int8(),
            None => options.clone(),
        }
    }

    /// Calls `run` with the options, before that with those of f32 where results are to be compared
    /// with these; they are what it makes of each work.
    fn with_options(
        &self,
        device: &Device,
        run: &dyn Fn(&LoadOptions, &mut Report<'_>) -> Result<(), BoxError>,
    ) -> Result<(), BoxError> {
        let mut report = Report {
            arguments: self,
            device,
            exact: BTreeMap::new(),
            is_exact: self.error,
        };
        if self.error {
            run(&LoadOptions::new(device), &mut report)?;
            report.is_exact = false;
        }
        run(&self.options(device), &mut report)
    }

    /// Name of a measurement; a picture of another size than the usual says so.
    fn name(&self, work: &str) -> String {
        match self.size {
            512 => work.to_owned(),
            size => format!("{work}, {size}x{size}"),
        }
    }
}

fn main() -> Result<(), BoxError> {
    let arguments = Arguments::parse();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads);
    pool.build()?.install(|| bench(&arguments))
}

fn bench(arguments: &Arguments) -> Result<(), BoxError> {
    let device = device(&arguments.device)?;
    let files = Files::directory(&arguments.dir);
    if arguments.wants(&["text encoder"]) {
        text_encoder(arguments, &files, &device)?;
    }
    let unet = format!("UNet step, batch {}", arguments.batch);
    if arguments.wants(&[&unet]) {
        denoiser(arguments, &files, &device, &arguments.name(&unet))?;
    }
    if arguments.wants(&["VAE decode", "VAE encode"]) {
        autoencoder(arguments, &files, &device)?;
    }
    let is_shipped = files.folder("safety_checker").has("config.json");
    if arguments.wants(&["safety checker"]) && is_shipped {
        safety_checker(arguments, &files, &device)?;
    }
    Ok(())
}

/// With all that is done to a picture before the network sees it.
fn safety_checker(arguments: &Arguments, files: &Files, device: &Device) -> Result<(), BoxError> {
    let side = arguments.size as u32;
    let ramp = |x: u32, y: u32| [x, y, x ^ y].map(|v| v as u8).into();
    let picture = RgbImage::from_fn(side, side, ramp);
    arguments.with_options(device, &|options, report| {
        let checker = ConceptChecker::open(files, "safety_checker", "feature_extractor", options)?;
        report.measure(&arguments.name("safety checker"), &|| {
            let scores = checker.scores(&picture)?.concepts;
            Ok(Tensor::from_floats(&scores[..], device))
        })
    })
}

fn text_encoder(arguments: &Arguments, files: &Files, device: &Device) -> Result<(), BoxError> {
    let folder = files.folder("text_encoder");
    let config = ClipTextConfig::read(&folder)?;
    let weights = folder.weights("model", None)?;
    let ids = vec![(0..77).map(|i| i * 631 % 49406).collect::<Vec<u32>>(); 2];
    arguments.with_options(device, &|options, report| {
        let (text, _) = ClipTextModel::load(config.clone(), &weights, options)?;
        report.measure("text encoder, batch 2", &|| {
            Ok(text.forward(&ids)?.last_hidden_state.flatten(0, 2))
        })
    })
}

fn denoiser(
    arguments: &Arguments,
    files: &Files,
    device: &Device,
    work: &str,
) -> Result<(), BoxError> {
    if arguments.classes {
        let branches: Vec<usize> = (0..arguments.batch).collect();
        let latents = latents(arguments, 1, (device, DType::F32))?;
        let run = |options: &LoadOptions| -> Result<Vec<f32>, BoxError> {
            let network = network(arguments, files, options)?;
            let made = network.predict(&latents, 500.0, &branches, &Cancel::new())?;
            numbers(Tensor::cat(made, 0).flatten(0, 3))
        };
        println!("{work}");
        return class_errors::table(files, device, &run, relative_error);
    }
    arguments.with_options(device, &|options, report| {
        let options = match report.is_exact {
            true => options.clone(),
            false => arguments.unet_options(options),
        };
        denoise(arguments, files, &options, work, report)
    })
}

/// The U-Net, loaded as `options` say, for a batch of branches.
fn network(
    arguments: &Arguments,
    files: &Files,
    options: &LoadOptions,
) -> Result<Box<dyn Network>, BoxError> {
    let (schedule, kind) = (
        Arc::new(NoiseSchedule::stable_diffusion()),
        Parameterization::Epsilon,
    );
    let unet = UNetFiles::open(files, "unet", schedule, kind, options)?.load()?;
    let width = unet.spec().context_width;
    let place = place(options);
    let context = Tensor::ones([1, 77, width], place);
    let mut text = TextEmbedding::new(context);
    let config = UNetConfig::new(&ConfigFile::read(&files.folder("unet"), "config.json")?)?;
    if let Some(of) = config.text_time {
        // What the pooled text leaves are the sines of six numbers.
        let width = of.input_width - 6 * of.time_channels;
        text = text.with_pooled(Tensor::ones([1, width], place));
    }
    let mut branch = Conditioning::new(text);
    let size = [arguments.size; 2];
    branch.size = config.text_time.map(|_| SizeConditioning::of(size));
    Ok(Arc::new(unet).prepare(vec![branch; arguments.batch])?)
}

fn denoise(
    arguments: &Arguments,
    files: &Files,
    options: &LoadOptions,
    work: &str,
    report: &mut Report<'_>,
) -> Result<(), BoxError> {
    if let Some(rank) = arguments.lora {
        let (kind, batch) = ((rank, arguments.lora_convolutions), arguments.batch);
        let latents = latents(arguments, 1, place(options))?;
        lora_cost::measure((files, options), kind, batch, &mut |work, network| {
            let branches: Vec<usize> = (0..batch).collect();
            report.measure(&arguments.name(work), &|| {
                let made = network.predict(&latents, 500.0, &branches, &Cancel::new())?;
                Ok(Tensor::cat(made, 0).flatten(0, 3))
            })
        })?;
    }
    let device = &options.device;
    let latents = latents(arguments, 1, place(options))?;
    let network = network(arguments, files, options)?;
    let branches: Vec<usize> = (0..arguments.batch).collect();
    let step = |cancel: &Cancel| network.predict(&latents, 500.0, &branches, cancel);
    report.measure(work, &|| {
        Ok(Tensor::cat(step(&Cancel::new())?, 0).flatten(0, 3))
    })?;
    if arguments.cancel > 0 && !report.is_exact {
        let (wait, whole) = longest_wait(arguments.cancel, &|cancel| {
            let done = step(cancel).is_ok();
            device.sync().map(|()| done)
        })?;
        let line = serde_json::json!({
            "peer": "ours",
            "work": format!("{work}, stopped"),
            "seconds": (wait * 1000.0).round() / 1000.0,
            "share_of_step": (wait / whole * 1000.0).round() / 1000.0,
        });
        println!("{line}");
    }
    Ok(())
}

/// The longest time from the pull of the brake to the answer, and that of a whole step; `step` says
/// whether it came to its end.
fn longest_wait<E>(
    stops: usize,
    step: &dyn Fn(&Cancel) -> Result<bool, E>,
) -> Result<(f64, f64), E> {
    let clock = Instant::now();
    step(&Cancel::new())?;
    let whole = clock.elapsed();
    let mut longest = 0f64;
    for stop in 0..stops {
        let cancel = Cancel::new();
        let brake = cancel.clone();
        let after = whole.mul_f64((stop as f64 + 0.5) / stops as f64);
        let pull = std::thread::spawn(move || {
            std::thread::sleep(after);
            brake.pull();
            Instant::now()
        });
        let finished = step(&cancel)?;
        let answered = Instant::now();
        // A step that was faster than the first one needed no answer.
        if let (false, Ok(pulled)) = (finished, pull.join()) {
            longest = longest.max((answered - pulled).as_secs_f64());
        }
    }
    Ok((longest, whole.as_secs_f64()))
}

fn autoencoder(arguments: &Arguments, files: &Files, device: &Device) -> Result<(), BoxError> {
    arguments.with_options(device, &|options, report| {
        let vae = VaeFiles::open(files, "vae", options)?.load()?;
        let place = (device, vae.spec().dtype.into());
        if arguments.wants(&["VAE decode"]) {
            let latent = latents(arguments, 1, place)?;
            report.measure(&arguments.name("VAE decode"), &|| {
                Ok(vae.decode(latent.clone())?.flatten(0, 3))
            })?;
        }
        if arguments.wants(&["VAE encode"]) {
            let side = arguments.size;
            let image = Tensor::ones([1, 3, side, side], place);
            report.measure(&arguments.name("VAE encode"), &|| {
                Ok(vae.encode(image.clone(), None)?.flatten(0, 3))
            })?;
        }
        Ok(())
    })
}

/// Where what is computed with these options is, and its precision.
fn place(options: &LoadOptions) -> (&Device, DType) {
    (&options.device, options.dtype.into())
}

fn latents(
    arguments: &Arguments,
    n: usize,
    place: (&Device, DType),
) -> Result<Tensor<4>, BoxError> {
    let side = arguments.size / 8;
    let latents = SeededNoise::new(0, n).normal([n, 4, side, side])?;
    Ok(Tensor::from_data(latents, place))
}

/// What is measured, and what came out in f32.
struct Report<'a> {
    arguments: &'a Arguments,
    device: &'a Device,
    exact: BTreeMap<String, Vec<f32>>,
    /// Nothing is measured: results are only kept.
    is_exact: bool,
}

impl Report<'_> {
    fn measure(
        &mut self,
        work: &str,
        run: &dyn Fn() -> Result<Tensor<1>, BoxError>,
    ) -> Result<(), BoxError> {
        if self.is_exact {
            self.exact.insert(work.into(), numbers(run()?)?);
            return Ok(());
        }
        let mut best = f64::INFINITY;
        let mut last = None;
        for round in 0..=self.arguments.runs {
            let clock = Instant::now();
            let found = run()?;
            // Reading one number waits for a device that computes lazily.
            found.clone().narrow(0, 0, 1).try_into_scalar::<f32>()?;
            self.device.sync()?;
            if round > 0 {
                best = best.min(clock.elapsed().as_secs_f64());
            }
            last = Some(found);
        }
        let mut line = serde_json::json!({
            "peer": "ours",
            "work": work,
            "seconds": (best * 1e5).round() / 1e5,
            "peak_rss_gb": memory::peak_memory().map(gigabytes),
        });
        if let Some(device) = self.device.memory_pool_usage() {
            line["device_in_use_gb"] = gigabytes(device.bytes_in_use).into();
            line["device_reserved_gb"] = gigabytes(device.bytes_reserved).into();
        }
        if let (Some(exact), Some(last)) = (self.exact.get(work), last) {
            line["rms_error"] = relative_error(&numbers(last)?, exact).into();
        }
        println!("{line}");
        Ok(())
    }
}

fn gigabytes(bytes: u64) -> f64 {
    (bytes as f64 / 1e7).round() / 100.0
}

fn numbers(x: Tensor<1>) -> Result<Vec<f32>, BoxError> {
    Ok(x.try_into_data()?.convert::<f32>().try_into_vec()?)
}

/// The root of the mean squared difference, relative to that of the exact numbers.
fn relative_error(found: &[f32], exact: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let pairs = found.iter().zip(exact);
    let off: f64 = pairs
        .map(|(&a, &b)| square(f64::from(a) - f64::from(b)))
        .sum();
    let size: f64 = exact.iter().map(|&x| square(f64::from(x))).sum();
    (off / size).sqrt()
}
