//! Puts an invisible watermark into a picture, or reads one.
//!
//! `cargo run --release --example watermark -- embed out.png marked.png`

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sd_pipeline::image::ImageReader;
use sd_pipeline::{RgbImage, Watermark, write_picture};

/// Puts an invisible watermark into a picture, or reads one: "dwtDct" of the Python package
/// invisible-watermark.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a picture with a watermark in it
    Embed {
        /// The picture: PNG, JPEG or WebP
        input: PathBuf,
        /// The file for the marked one, .png, .jpg or .webp
        output: PathBuf,
        /// The bits, such as 0101 [default: the 48 of SDXL]
        #[arg(long)]
        bits: Option<Watermark>,
    },
    /// Read the bits that a picture shows
    Read {
        /// The picture
        input: PathBuf,
        /// The number of bits
        #[arg(long, default_value_t = 48)]
        bits: usize,
        /// Print one line of JSON
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Embed {
            input,
            output,
            bits,
        } => {
            let mark = bits.unwrap_or(Watermark::sdxl());
            write_picture(&mark.embed(&picture(&input)?)?, output)?;
        }
        Command::Read { input, bits, json } => {
            let bits = Watermark::read(&picture(&input)?, bits)?.to_string();
            let bits = match json {
                true => serde_json::json!({ "bits": bits }).to_string(),
                false => bits,
            };
            writeln!(std::io::stdout(), "{bits}")?;
        }
    }
    Ok(())
}

fn picture(file: &PathBuf) -> Result<RgbImage, Box<dyn Error>> {
    let read = || ImageReader::open(file)?.with_guessed_format()?.decode();
    let picture = read().map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(picture.into_rgb8())
}
