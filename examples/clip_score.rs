//! Measures by CLIP how well a picture goes with texts: cosines of their embeddings, and logits.
//!
//! `cargo run --release --example clip_score -- PICTURE TEXT… --model DIR`

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;

use clap::Parser;
use sd_pipeline::models::LoadOptions;
use sd_pipeline::{Similarity, device, image};
use serde_json::json;

/// Measures how well a picture goes with texts.
#[derive(Parser)]
struct Arguments {
    /// A picture, .png, .jpg or .webp
    picture: PathBuf,
    /// Texts; what is beyond the model's length is cut
    #[arg(required = true)]
    text: Vec<String>,
    /// The folder of a CLIP, as transformers' `CLIPModel` has it
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Backend: flex, ndarray, wgpu, vulkan, cuda, cpu, … as far as compiled in
    #[arg(long, default_value = "flex")]
    device: String,
    /// Print one line of JSON: a cosine and a logit for each text
    #[arg(long)]
    json: bool,
}

fn main() -> std::process::ExitCode {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .without_time()
        .init();
    match score(&Arguments::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // That nobody listens is no reason to fail otherwise.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn score(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let picture = image::open(&arguments.picture);
    let picture = picture.map_err(|e| format!("{}: {e}", arguments.picture.display()))?;
    let options = LoadOptions::new(&device(&arguments.device)?);
    let clip = Similarity::open(&arguments.model, &options)?;
    let cosines = clip
        .cosines(&[&picture.to_rgb8()], &arguments.text)?
        .concat();
    let scale = clip.logit_scale();
    let logits: Vec<f32> = cosines.iter().map(|cosine| cosine * scale).collect();
    let mut out = std::io::stdout();
    if arguments.json {
        writeln!(out, "{}", json!({ "cosines": cosines, "logits": logits }))?;
        return Ok(());
    }
    for ((text, cosine), logit) in arguments.text.iter().zip(cosines).zip(logits) {
        writeln!(out, "{cosine:7.4} {logit:8.3}  {text}")?;
    }
    Ok(())
}
