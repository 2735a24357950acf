//! Draws pictures from a prompt: the whole of the library in one program.
//!
//! `cargo run --release --example text_to_image -- "a red cube on top of a blue sphere"`

mod support;

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use clap::Parser;
use sd_pipeline::{
    OpenOptions, Pipeline, Record, Request, Residency, Start, device, read_latents, write_latents,
    write_picture,
};
use support::{Arguments, Report, progress_bar, tell};

fn main() -> std::process::ExitCode {
    support::print_warnings();
    match draw(&Arguments::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("error: {error}"));
            std::process::ExitCode::FAILURE
        }
    }
}

fn draw(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    arguments.check_output()?;
    let record = arguments.redraw.as_ref().map(Record::read).transpose()?;
    let redrawn = record.as_ref().map(Record::request).transpose()?;
    let mut report = Report {
        seed: record
            .as_ref()
            .and_then(|record| record.seed)
            .unwrap_or(arguments.seed.value),
        ..Report::default()
    };
    if arguments.seed.random {
        tell(format_args!("seed {}", report.seed));
    }

    let clock = Instant::now();
    let device = device(&arguments.device)?;
    let options = OpenOptions {
        dtype: record
            .as_ref()
            .and_then(Record::dtype)
            .unwrap_or(arguments.dtype()),
        scheduler: match &record {
            Some(record) => record.scheduler.clone(),
            None => arguments.scheduler.clone(),
        },
        weight_storage: arguments.memory(),
        // One run: nothing is needed again.
        residency: Residency::PerPhase,
        ..OpenOptions::new(&device)
    };
    let mut pipeline = match &arguments.model {
        Some(folder) => Pipeline::open(folder, &options)?,
        None => Pipeline::from_files(&sd_tiny::files(), &options)?,
    };
    if arguments.model.is_none() {
        pipeline.name = Some("sd-tiny".into());
    }
    if let Some(record) = record
        .as_ref()
        .filter(|record| record.model != pipeline.name)
    {
        let [drew, draws] = [&record.model, &pipeline.name].map(|name| name.as_deref());
        tell(format_args!(
            "warning: the picture was drawn by the model {:?}, and now by {:?}",
            drew.unwrap_or_default(),
            draws.unwrap_or_default(),
        ));
    }
    let open = clock.elapsed();

    let asked = Request {
        negative_prompt: arguments.negative.as_deref().map(Into::into),
        guidance_scale: arguments.guidance(),
        steps: arguments.steps,
        width: arguments.width,
        height: arguments.height,
        seed: report.seed,
        count: arguments.count,
        start: match &arguments.latents_in {
            Some(file) => Start::Initial(read_latents(file, &device)?),
            None => Start::Noise,
        },
        watermark: arguments.watermark.clone().map(Into::into),
        ..Request::new(&arguments.prompt)
    };
    let request = redrawn.unwrap_or(asked);
    let clock = Instant::now();
    let mut run = pipeline.start(&request)?;
    let loaded = pipeline.load_time();
    report.encode = clock.elapsed().saturating_sub(loaded);
    report.weights = pipeline.memory();

    let bar = progress_bar(run.plan().stages.len());
    let mut clock = Instant::now();
    for step in &mut run {
        bar.set_position(step?.done as u64);
        report.steps.push(clock.elapsed());
        clock = Instant::now();
    }
    bar.finish_and_clear();

    let images = run.images()?;
    report.load = open + pipeline.load_time();
    report.decode = clock
        .elapsed()
        .saturating_sub(pipeline.load_time() - loaded);
    report.peaks = run.memory_peaks();

    if let Some(file) = &arguments.latents_out {
        write_latents(run.latents(), file)?;
    }
    // Of those that were drawn with it, the one that is drawn again.
    let one = record.and_then(|record| images.get(record.index));
    let images = one.map_or(&*images, std::slice::from_ref);
    for (image, file) in images.iter().zip(arguments.output_files()) {
        match arguments.no_record {
            true => write_picture(image, file)?,
            false => image.write(file)?,
        }
    }
    if arguments.json {
        writeln!(std::io::stdout(), "{}", report.json())?;
    }
    Ok(())
}
