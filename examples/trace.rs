//! Writes down what a run does, for comparing it with another implementation number by number:
//! the text embeddings, one evaluation of the denoiser, the latents after every step and the
//! picture, in one safetensors file.
//!
//! `cargo run --release --example trace -- --help`

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sd_pipeline::burn::tensor::Tensor;
use sd_pipeline::{
    Cancel, Conditioning, Noise, OpenOptions, Pipeline, Request, SeededNoise, SizeConditioning,
    device,
};

/// Of the single evaluation.
const TIMESTEP: f64 = 500.0;

/// Writes down what a run does.
#[derive(Parser)]
struct Arguments {
    /// The prompt: what the picture should show
    prompt: String,
    /// A model folder in diffusers layout
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[arg(long, default_value_t = 4)]
    steps: usize,
    #[arg(long, default_value_t = 7.5)]
    guidance: f64,
    #[arg(long)]
    scheduler: Option<String>,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[arg(long, default_value = "flex")]
    device: String,
    /// Open the model as it takes the least memory
    #[arg(long)]
    smallest: bool,
    /// The file to write
    #[arg(long, value_name = "FILE", default_value = "trace.safetensors")]
    output: PathBuf,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut seconds = Vec::new();
    let mut clock = Instant::now();
    let mut lap = |what: String| {
        seconds.push((what, clock.elapsed().as_secs_f64().into()));
        clock = Instant::now();
    };

    let device = device(&arguments.device)?;
    let options = OpenOptions {
        scheduler: arguments.scheduler,
        ..match arguments.smallest {
            true => OpenOptions::smallest(&device),
            false => OpenOptions::new(&device),
        }
    };
    let pipeline = Pipeline::open(&arguments.model, &options)?;
    lap("load".into());
    let text = pipeline.text_encoder.get()?;
    let text = text.encode(&["".into(), arguments.prompt.as_str().into()])?;
    let mut tensors = vec![tensor(
        "text_embeddings".into(),
        text.tokens.dims(),
        &text.tokens.try_to_vec_as()?,
    )];
    if let Some(pooled) = &text.pooled {
        tensors.push(tensor(
            "pooled".into(),
            pooled.dims(),
            &pooled.try_to_vec_as()?,
        ));
    }
    lap("text encoder".into());
    let spec = pipeline.denoiser.spec();
    let [height, width] = spec.sample_size;
    let mut noise = SeededNoise::new(arguments.seed, 1);
    let noise = noise.normal([1, spec.latent_channels, height, width])?;
    let noise = Tensor::<4>::from_data(noise, &spec.device);
    let size = spec.sample_size.map(|side| 8 * side);
    let branches = [text.row(0), text.row(1)].map(|text| {
        let mut conditioning = Conditioning::new(text);
        conditioning.size = spec.embeds_size.then(|| SizeConditioning::of(size));
        conditioning
    });
    let network = pipeline.denoiser.get()?.prepare(branches.into())?;
    let prediction = network.predict(&noise, TIMESTEP, &[0, 1], &Cancel::new())?;
    let prediction = Tensor::cat(prediction, 0);
    tensors.push(tensor(
        "prediction".into(),
        prediction.dims(),
        &prediction.try_into_vec_as()?,
    ));
    lap("prediction".into());

    let request = Request {
        negative_prompt: Some("".into()),
        steps: arguments.steps,
        guidance_scale: arguments.guidance,
        seed: arguments.seed,
        ..Request::new(arguments.prompt)
    };
    let mut run = pipeline.start(&request)?;
    while let Some(step) = run.next() {
        let name = format!("latents.{}", step?.done);
        let latents = run.latents();
        tensors.push(tensor(
            name.clone(),
            latents.dims(),
            &latents.try_to_vec_as()?,
        ));
        lap(name);
    }
    let images = run.images()?;
    lap("decode".into());
    let (width, height) = images[0].dimensions();
    let shape = vec![height as usize, width as usize, 3];
    tensors.push((
        "picture".into(),
        Dtype::U8,
        shape,
        images[0].as_raw().clone(),
    ));

    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        TensorView::new(*dtype, shape.clone(), bytes).map(|view| (name, view))
    });
    let file = safetensors::serialize(views.collect::<Result<Vec<_>, _>>()?, None)?;
    std::fs::write(arguments.output, file)?;
    println!(
        "{}",
        serde_json::Map::from_iter(seconds)
            .into_iter()
            .collect::<serde_json::Value>()
    );
    Ok(())
}

type Named = (String, Dtype, Vec<usize>, Vec<u8>);

fn tensor<const D: usize>(name: String, shape: [usize; D], values: &[f32]) -> Named {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    (name, Dtype::F32, shape.to_vec(), bytes)
}
