//! Writes a random-weight model of every family in every layout that it has, to try an integration on.
//!
//! `cargo run --release --example micro_models -- DIR` makes `DIR/sd1/diffusers`, `DIR/sd1/ldm`, …

use std::path::PathBuf;

use clap::Parser;
use sd_tiny::micro::{Family, Micro};

/// Writes random-weight models of 1 MB at most.
#[derive(Parser)]
struct Arguments {
    /// Folder to write into
    folder: PathBuf,
    /// Seed of the weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    for family in Family::ALL {
        for &layout in family.layouts() {
            let [family_folder, folder] =
                [format!("{family:?}"), format!("{layout:?}")].map(|name| name.to_lowercase());
            let folder = arguments.folder.join(family_folder).join(folder);
            let micro = Micro::new(family, layout, arguments.seed)?;
            micro.write_to(&folder)?;
            let size: usize = micro.iter().map(|(_, bytes)| bytes.len()).sum();
            println!("{}: {:.2} MB", folder.display(), size as f64 / 1e6);
        }
    }
    Ok(())
}
