//! Writes a model in another layout or another precision.
//!
//! `cargo run --release --example convert -- IN OUT [--layout diffusers|ldm] [--dtype f32|f16|bf16]`

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use sd_pipeline::{ConvertOptions, FloatDType, ModelLayout, convert};

/// Writes a model in another layout or another precision.
#[derive(Parser)]
struct Arguments {
    /// A model's folder, or a file of tensors: safetensors, a PyTorch checkpoint, GGUF
    input: PathBuf,
    /// The folder or file to write; one that is there already is not replaced
    output: PathBuf,
    /// Layout of the output [default: ldm for a name that ends in .safetensors]
    #[arg(long)]
    layout: Option<Layout>,
    /// Precision of all weights [default: that of each]
    #[arg(long)]
    dtype: Option<Precision>,
    /// Variant of the weights to read, such as fp16
    #[arg(long)]
    variant: Option<String>,
    /// Family of a model in a single file, where its tensors do not tell
    #[arg(long, value_name = "NAME")]
    family: Option<String>,
    /// Folder whose settings and tokenizers are taken for a model in a single file
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    /// Replace a model that is there
    #[arg(long)]
    overwrite: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Layout {
    /// A folder with a sub-folder for each component
    Diffusers,
    /// One file, under the original code's names
    Ldm,
}

#[derive(Clone, Copy, ValueEnum)]
enum Precision {
    F32,
    F16,
    Bf16,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let layout = arguments.layout.map(|layout| match layout {
        Layout::Diffusers => ModelLayout::Diffusers,
        Layout::Ldm => ModelLayout::Ldm,
    });
    let dtype = arguments.dtype.map(|dtype| match dtype {
        Precision::F32 => FloatDType::F32,
        Precision::F16 => FloatDType::F16,
        Precision::Bf16 => FloatDType::BF16,
    });
    let options = ConvertOptions {
        layout,
        dtype,
        variant: arguments.variant,
        family: arguments.family,
        config: arguments.config,
        overwrite: arguments.overwrite,
        ..ConvertOptions::default()
    };
    let written = convert(&arguments.input, &arguments.output, &options)?;
    for what in &written.unsaid {
        eprintln!("note: the file does not say all: {what}");
    }
    let megabytes = written.bytes as f64 / 1e6;
    let output = arguments.output.display();
    println!("{output}: {} tensors, {megabytes:.1} MB", written.tensors);
    Ok(())
}
