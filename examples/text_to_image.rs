//! Draws pictures from a prompt: the whole of the library in one program.
//!
//! `cargo run --release --example text_to_image -- "a red cube on top of a blue sphere"`

mod support;

use std::error::Error;

use clap::Parser;
use sd_pipeline::{Record, Request, Start, read_latents};
use support::{Arguments, Drawing};

fn main() -> std::process::ExitCode {
    support::run(|| draw(&Arguments::parse()))
}

fn draw(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    if !arguments.adapters.report_only {
        arguments.check_output()?;
    }
    let record = arguments.redraw.as_ref().map(Record::read).transpose()?;
    let redrawn = record.as_ref().map(Record::request).transpose()?;
    let drawing = Drawing::open(arguments, record)?;
    if arguments.adapters.report_only {
        return arguments.adapters.print(&drawing.pipeline, arguments.json);
    }
    let device = &drawing.pipeline.denoiser.spec().device;
    let request = match (redrawn, &arguments.latents_in) {
        (Some(redrawn), _) => redrawn,
        (None, None) => drawing.request()?,
        (None, Some(file)) => Request {
            start: Start::Initial(read_latents(file, device)?),
            ..drawing.request()?
        },
    };
    drawing.draw(&request)
}
