//! Draws prompts on the devices of other machines: each machine takes the next prompt when it is
//! free, and what a machine that is lost had begun is drawn by another.
//!
//! ```sh
//! cargo run --release --features remote --example draw_remotely -- \
//!     --server ws://10.0.0.7:3000 --server ws://10.0.0.8:3000 "a red cube" "a blue sphere"
//! ```

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use sd_pipeline::devices::DeviceErrorKind;
use sd_pipeline::devices::remote::{self, RemoteOptions, Traffic};
use sd_pipeline::{Device, Error, OpenOptions, Pipeline, Request, Result, write_png};

/// Draws pictures on other machines.
#[derive(Parser)]
struct Arguments {
    /// The prompts: what the pictures should show, one each
    #[arg(default_value = sd_tiny::PROMPT)]
    prompts: Vec<String>,
    /// A server, as in ws://10.0.0.7:3000; once for each
    #[arg(long, value_name = "URL", required = true)]
    server: Vec<String>,
    /// Token that the servers ask for
    #[arg(long)]
    token: Option<String>,
    /// Seconds that a server may be silent
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    answer_within: u64,
    /// Seconds that a step may take
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    patience: u64,
    /// A model folder in diffusers layout [default: the embedded tiny model]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Steps of the scheduler
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Seed of every picture
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The folder for the pictures, 0.png, 1.png, …
    #[arg(long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
}

/// A server, and the pipeline whose weights it holds.
struct Server<'a> {
    url: &'a str,
    device: Device,
    pipeline: Pipeline,
}

fn main() -> ExitCode {
    match draw_all(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn draw_all(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    if !arguments.output.is_dir() {
        return Err(format!("there is no folder {}", arguments.output.display()).into());
    }
    let mut servers: Vec<Server<'_>> = Vec::new();
    for url in &arguments.server {
        match open(arguments, url) {
            Ok(server) => servers.push(server),
            Err(error @ Error::Device(_)) => eprintln!("without {url}: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    let prompts = arguments.prompts.iter().enumerate();
    let queue: Mutex<VecDeque<(usize, &String)>> = Mutex::new(prompts.collect());
    // Once more when a server was lost after the others had found nothing left to do.
    while !lock(&queue).is_empty() {
        if servers.is_empty() {
            let left = lock(&queue).len();
            return Err(format!("no server is left, and {left} pictures are").into());
        }
        let work = |server| (draw_from(&queue, arguments, &server), server);
        let done = thread::scope(|scope| {
            let work = &work;
            let threads = servers.drain(..).map(|s| scope.spawn(move || work(s)));
            let threads: Vec<_> = threads.collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined.collect::<Vec<_>>()
        });
        for outcome in done {
            match outcome.map_err(|_| "a thread panicked")? {
                (Ok(()), server) => servers.push(server),
                (Err(error), server) if is_lost(&error) => {
                    eprintln!("without {}: {error}", server.url);
                }
                (Err(error), _) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn open<'a>(arguments: &Arguments, url: &'a str) -> Result<Server<'a>> {
    let clock = Instant::now();
    let options = RemoteOptions {
        token: arguments.token.clone(),
        answer_within: Duration::from_secs(arguments.answer_within),
        patience: Duration::from_secs(arguments.patience),
        ..RemoteOptions::default()
    };
    let device = remote::open(url, &options)?;
    let options = OpenOptions::new(&device);
    let pipeline = match &arguments.model {
        Some(folder) => Pipeline::open(folder, &options)?,
        None => Pipeline::from_files(&sd_tiny::files(), &options)?,
    };
    let (sent, time) = (traffic(&device).sent, clock.elapsed());
    println!("{url}: opened in {time:.1?}, {sent} bytes to the server");
    Ok(Server {
        url,
        device,
        pipeline,
    })
}

/// Draws what is in the queue until it is empty or the server fails, which puts its prompt back.
fn draw_from(
    queue: &Mutex<VecDeque<(usize, &String)>>,
    arguments: &Arguments,
    server: &Server<'_>,
) -> Result<()> {
    loop {
        let Some((number, prompt)) = lock(queue).pop_front() else {
            return Ok(());
        };
        if let Err(error) = draw(arguments, server, number, prompt) {
            lock(queue).push_front((number, prompt));
            return Err(error);
        }
    }
}

fn draw(arguments: &Arguments, server: &Server<'_>, number: usize, prompt: &str) -> Result<()> {
    let request = Request {
        guidance_scale: match arguments.model {
            Some(_) => 7.5,
            None => sd_tiny::GUIDANCE_SCALE,
        },
        steps: arguments.steps,
        seed: arguments.seed,
        ..Request::new(prompt)
    };
    let mut run = server.pipeline.start(&request)?;
    let (clock, before) = (Instant::now(), traffic(&server.device));
    let mut steps = 0;
    for step in &mut run {
        step?;
        steps += 1;
    }
    let each = clock.elapsed() / steps.max(1);
    let steps_cost = traffic(&server.device) - before;
    let [there, back] = [steps_cost.sent, steps_cost.received].map(|n| n / u64::from(steps.max(1)));
    let images = run.images()?;
    let picture = traffic(&server.device) - before - steps_cost;

    let file = arguments.output.join(format!("{number}.png"));
    write_png(&images[0], &file)?;
    println!(
        "{}: {} in {steps} steps of {each:.1?}; a step {there} bytes to the server and {back} back, \
         the decoded picture {} and {}",
        server.url,
        file.display(),
        picture.sent,
        picture.received
    );
    Ok(())
}

fn is_lost(error: &Error) -> bool {
    let Error::Device(error) = error else {
        return false;
    };
    matches!(error.kind, DeviceErrorKind::Lost { .. })
}

fn traffic(device: &Device) -> Traffic {
    remote::traffic(device).unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
