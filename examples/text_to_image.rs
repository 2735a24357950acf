//! Draws pictures from a prompt: the whole of the library in one program.
//!
//! `cargo run --release --example text_to_image -- "a red cube on top of a blue sphere"`

mod support;

use std::error::Error;
use std::io::Write;
use std::time::{Duration, Instant};

use clap::Parser;
use sd_pipeline::{
    OpenOptions, Picture, Pipeline, Record, Request, Residency, Run, Start, device, read_latents,
    write_latents, write_picture,
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
        variant: arguments.variant.clone(),
        unknown_settings: arguments.unknown_settings(),
        weight_storage: arguments.memory(),
        // One run: nothing is needed again.
        residency: Residency::PerPhase,
        safety: arguments.safety(),
        memory_limit: arguments.memory_limit,
        ..OpenOptions::new(&device)
    };
    let own = OpenOptions {
        folders: arguments.folders(),
        ..options.clone()
    };
    let mut pipeline = match &arguments.model {
        Some(folder) => Pipeline::open(folder, &own)?,
        None => Pipeline::from_files(&sd_tiny::files(), &own)?,
    };
    arguments.check_safety(&pipeline);
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
    let refiner = arguments.refiner.as_ref();
    let refiner = refiner.map(|folder| Pipeline::open(folder, &options));
    let refiner = refiner.transpose()?;
    let open = clock.elapsed();

    let asked = Request {
        seed: report.seed,
        start: match &arguments.latents_in {
            Some(file) => Start::Initial(read_latents(file, &device)?),
            None => Start::Noise,
        },
        watermark: arguments.watermark.clone().map(Into::into),
        ..arguments.request(&pipeline)
    };
    let request = redrawn.unwrap_or(asked);
    if arguments.estimate {
        let estimate = pipeline.estimate(&request)?;
        let words = match arguments.json {
            true => serde_json::to_string(&estimate)?,
            false => estimate.to_string(),
        };
        writeln!(std::io::stdout(), "{words}")?;
        return Ok(());
    }
    let mut run = started(&pipeline, &request, &mut report)?;
    take_steps(&mut run, &mut report)?;
    let mut loaded = pipeline.load_time();
    if let Some(refiner) = &refiner {
        let request = request.refining(run.hand_over()?);
        report.watch(run.memory_peaks());
        run = started(refiner, &request, &mut report)?;
        take_steps(&mut run, &mut report)?;
        loaded += refiner.load_time();
    }

    let clock = Instant::now();
    let images = run.images()?;
    let all = refiner.iter().chain([&pipeline]);
    let all: Duration = all.map(Pipeline::load_time).sum();
    report.load = open + all;
    report.decode = clock.elapsed().saturating_sub(all - loaded);
    report.watch(run.memory_peaks());
    let is_flagged = |image: &Picture| image.verdict.as_ref().is_some_and(|v| v.flagged);
    report.flagged = images.iter().map(is_flagged).collect();

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

/// A run of `request`, its text encoded.
fn started(
    pipeline: &Pipeline,
    request: &Request,
    report: &mut Report,
) -> Result<Run, Box<dyn Error>> {
    let (clock, before) = (Instant::now(), pipeline.load_time());
    let run = pipeline.start(request)?;
    let loaded = pipeline.load_time() - before;
    report.encode += clock.elapsed().saturating_sub(loaded);
    report.weights = pipeline.memory();
    Ok(run)
}

/// All steps of `run`.
fn take_steps(run: &mut Run, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let bar = progress_bar(run.steps());
    let mut clock = Instant::now();
    for step in run {
        bar.set_position(step?.done as u64);
        report.steps.push(clock.elapsed());
        clock = Instant::now();
    }
    bar.finish_and_clear();
    Ok(())
}
