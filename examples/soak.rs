//! Draws on one pipeline for hours, as a program that serves many does: pictures of changing sizes,
//! prompts and schedulers, a third of them given up midway by another thread. Memory must stay flat,
//! and the pictures what they were.
//!
//! `cargo run --release --example soak -- --generations 2000`

use std::error::Error;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::Duration;

use clap::Parser;
use sd_pipeline::models::memory::resident_bytes;
use sd_pipeline::schedulers::names;
use sd_pipeline::{OpenOptions, Picture, Pipeline, Request, Residency, Run, device};

/// Draws on one pipeline for long, and says how its memory grows.
#[derive(Parser)]
struct Arguments {
    /// Pictures to begin
    #[arg(long, default_value_t = 2000)]
    generations: usize,
    /// Of these the first, after which memory must be flat
    #[arg(long, default_value_t = 200)]
    warm: usize,
    /// MiB by which memory may grow behind them
    #[arg(long, default_value_t = 10)]
    growth: u64,
    /// Load each component when it is needed
    #[arg(long)]
    per_phase: bool,
}

fn main() -> ExitCode {
    match soak(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn soak(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let residency = match arguments.per_phase {
        true => Residency::PerPhase,
        false => Residency::Always,
    };
    let options = OpenOptions {
        residency,
        ..OpenOptions::new(&device("flex")?)
    };
    let mut pipeline = Pipeline::from_files(&sd_tiny::files(), &options)?;
    let own = pipeline.scheduler.clone();
    // Those of flow models are not for this one.
    let mut serves = |name: &&str| {
        let request = sd_tiny::request("");
        let step = |mut run: Run| run.next().transpose();
        pipeline.set_scheduler(name).is_ok() && pipeline.start(&request).and_then(step).is_ok()
    };
    let schedulers: Vec<_> = names().into_iter().filter(&mut serves).collect();
    pipeline.scheduler = own.clone();
    let before = pipeline.generate(&sd_tiny::request("a red cube"))?;

    let (give_up, given_up) = channel::<Run>();
    let dropping = std::thread::spawn(move || given_up.into_iter().for_each(drop));
    let mut settled = 0;
    let mut most = 0;
    for k in 0..arguments.generations {
        pipeline.set_scheduler(schedulers[k % schedulers.len()])?;
        draw(&pipeline, k, &give_up)?;
        let memory = resident_bytes().unwrap_or_default() >> 20;
        if k < arguments.warm {
            settled = settled.max(memory);
        }
        most = most.max(memory);
        if (k + 1) % (arguments.generations / 20).max(1) == 0 {
            println!("{:6} generations: {memory} MiB", k + 1);
        }
    }
    drop(give_up);
    dropping.join().map_err(|_| "a run's drop panicked")?;

    pipeline.scheduler = own;
    let after = pipeline.generate(&sd_tiny::request("a red cube"))?;
    if after != before {
        return Err("the picture has become another".into());
    }
    if most > settled + arguments.growth {
        return Err(format!("memory grew from {settled} to {most} MiB").into());
    }
    Ok(())
}

/// Begins picture `k`; each third is given up, its run dropped by another thread.
fn draw(
    pipeline: &Pipeline,
    k: usize,
    give_up: &std::sync::mpsc::Sender<Run>,
) -> Result<Vec<Picture>, Box<dyn Error>> {
    let side = |k: usize| Some(64 + 8 * (k % 9));
    let request = Request {
        steps: 4 + k % 3,
        guidance_scale: [1.0, 2.0][k % 2],
        negative_prompt: (k % 4 == 1).then(|| "a blue ring".into()),
        width: side(k),
        height: side(k / 9 + 2 * k),
        seed: k as u64,
        count: 1 + usize::from(k.is_multiple_of(7)),
        ..Request::new(["a red cube", "", "two white rings beside a star"][k % 3].repeat(1 + k % 5))
    };
    let mut run = pipeline.start(&request)?;
    if k % 3 != 2 {
        run.by_ref().try_for_each(|step| step.map(drop))?;
        return Ok(run.images()?);
    }
    match k % 2 {
        // Between two steps.
        0 => {
            run.next().transpose()?;
        }
        // Inside one, by another thread.
        _ => {
            let brake = run.cancel_handle();
            let pull = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(1));
                brake.pull();
            });
            while run.next().is_some_and(|step| step.is_ok()) {}
            pull.join().map_err(|_| "pulling the brake panicked")?;
        }
    }
    give_up.send(run)?;
    Ok(Vec::new())
}
