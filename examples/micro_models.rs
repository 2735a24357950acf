//! Writes a random-weight model of every family in every layout, to try an integration on.
//!
//! `cargo run --release --example micro_models -- DIR` makes `DIR/sd1/diffusers`, `DIR/sd1/ldm`, …

use std::path::PathBuf;

use clap::Parser;
use sd_tiny::micro::{Family, Layout, Micro};

/// Writes random-weight models smaller than 1 MB.
#[derive(Parser)]
struct Arguments {
    /// Folder to write into
    folder: PathBuf,
    /// Seed of the weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    for family in Family::ALL {
        for (name, layout) in [("diffusers", Layout::Diffusers), ("ldm", Layout::Ldm)] {
            let folder = format!("{family:?}").to_lowercase();
            let folder = arguments.folder.join(folder).join(name);
            let micro = Micro::new(family, layout, arguments.seed);
            micro.write_to(&folder)?;
            let size: usize = micro.iter().map(|(_, bytes)| bytes.len()).sum();
            println!("{}: {:.2} MB", folder.display(), size as f64 / 1e6);
        }
    }
    Ok(())
}
