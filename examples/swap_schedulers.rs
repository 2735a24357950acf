//! One loaded model, one seed, many schedulers: a labelled grid, scheduler by number of steps.
//!
//! `cargo run --release --example swap_schedulers -- [PROMPT] [--output F.png]`

#[path = "support/grid.rs"]
mod grid;

use clap::Parser;
use grid::Grid;
use sd_pipeline::{Request, Result, device, write_png};

/// Draws a grid of schedulers and numbers of steps.
#[derive(Parser)]
struct Arguments {
    /// The prompt: what the pictures should show
    #[arg(default_value = sd_tiny::PROMPT)]
    prompt: String,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Numbers of steps, the grid's columns
    #[arg(long, value_delimiter = ',', default_value = "4,6,10,20,40")]
    steps: Vec<usize>,
    /// Schedulers, the grid's rows
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "DDIM,PNDM,Euler,Euler a,Heun,DPM++ 2M,DPM++ 2M Karras,DPM++ 2M SDE,DPM++ SDE,UniPC,DEIS,LMS"
    )]
    schedulers: Vec<String>,
    #[arg(long, default_value = "schedulers.png")]
    output: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut pipeline = sd_tiny::pipeline(&device("flex")?)?;
    let columns: Vec<String> = arguments
        .steps
        .iter()
        .map(|n| format!("{n} steps"))
        .collect();
    let mut grid = Grid::new(&columns, &arguments.schedulers);
    for (row, name) in arguments.schedulers.iter().enumerate() {
        // The swap: by name, with the settings of the model's folder.
        pipeline.set_scheduler(name)?;
        for (column, &steps) in arguments.steps.iter().enumerate() {
            let request = Request {
                steps,
                seed: arguments.seed,
                ..sd_tiny::request(&arguments.prompt)
            };
            grid.put(&pipeline.generate(&request)?[0], row, column);
        }
    }
    write_png(grid.image(), arguments.output)
}
