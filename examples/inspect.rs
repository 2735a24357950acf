//! Says what a file or a folder of weights is, from its headers alone.
//!
//! `cargo run --release --example inspect -- model.safetensors [--json]`

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use sd_pipeline::models::{Inspection, inspect};
use serde_json::Value;

/// Says what a file or a folder of weights is, from its headers alone.
#[derive(Parser)]
struct Arguments {
    /// A safetensors file, a PyTorch checkpoint, a GGUF file, or a folder of them
    path: PathBuf,
    /// One JSON object in place of lines
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let found = inspect(&arguments.path)?;
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&found)?),
        false => print(&found)?,
    }
    Ok(())
}

/// One line for each fact that is known.
fn print(found: &Inspection) -> Result<(), Box<dyn Error>> {
    let Value::Object(fields) = serde_json::to_value(found)? else {
        return Ok(());
    };
    for (name, value) in fields {
        let words = match value {
            Value::Null => continue,
            Value::Array(items) if items.is_empty() => continue,
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(words).collect();
                items.join(", ")
            }
            Value::Object(counts) => {
                let counts = counts
                    .iter()
                    .map(|(name, count)| format!("{count} × {name}"));
                counts.collect::<Vec<_>>().join(", ")
            }
            value => words(&value),
        };
        println!("{name:18} {words}");
    }
    Ok(())
}

fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}
