//! Criterion, and a table of what it measured.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode};
use regex::Regex;
use sd_pipeline::core::BoxError;

use crate::Place;
use crate::table::Table;

/// The file the table is written to.
const TABLE: &str = "SD_BENCH_TABLE";

/// The fewest that criterion accepts: a full-size network takes seconds.
const SAMPLES: usize = 10;

/// Measures work, prints it as criterion does and collects a table.
pub struct Harness {
    criterion: Criterion,
    filter: Option<Regex>,
    /// False where criterion only tries the benchmarks, or lists them.
    measures: bool,
    table: Table,
}

impl Harness {
    /// With criterion's command line: a filter, `--save-baseline`, `--list`, …
    pub fn from_arguments() -> Self {
        let criterion = Criterion::default()
            .sample_size(SAMPLES)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1));
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let has = |flag: &str| arguments.iter().any(|a| a == flag);
        Self {
            criterion: criterion.configure_from_args(),
            // One that is no expression is criterion's to complain about.
            filter: filter(&arguments).and_then(|filter| Regex::new(filter).ok()),
            measures: has("--bench") && !has("--test") && !has("--list"),
            table: Table::default(),
        }
    }

    /// Measures `run` as `work` of `model`, and waits for the device each time. It is run once
    /// before, so that kernels are compiled and tuned; if it fails then, that is printed and there
    /// is nothing to measure. `open` makes `run`, and is called only when the filter lets this
    /// work through.
    pub fn measure<T, R: FnMut() -> Result<T, BoxError>>(
        &mut self,
        place: &Place,
        model: &str,
        work: &str,
        open: impl FnOnce() -> Result<R, BoxError>,
    ) {
        let id = format!("{place}/{model}/{work}");
        if !self.selects(&id) {
            return;
        }
        let device = place.device();
        let opened = open().and_then(|mut run| {
            run()?;
            device.sync()?;
            Ok(run)
        });
        let mut run = match opened {
            Ok(run) => run,
            Err(error) => return println!("SKIPPED {id}: {error}"),
        };
        let mut samples = Vec::new();
        let mut group = self.criterion.benchmark_group(format!("{place}/{model}"));
        group.sampling_mode(SamplingMode::Flat);
        group.bench_function(work, |bencher| {
            bencher.iter_custom(|times| {
                let clock = Instant::now();
                for _ in 0..times {
                    black_box(run().expect("what succeeded a moment ago"));
                    device.sync().expect("what succeeded a moment ago");
                }
                let time = clock.elapsed();
                samples.push(time / u32::try_from(times).unwrap_or(u32::MAX));
                time
            });
        });
        group.finish();
        // Those before are criterion's warming up.
        let measured = samples.split_off(samples.len().saturating_sub(SAMPLES));
        if self.measures && !measured.is_empty() {
            self.table.add(place, model, work, median(measured));
        }
    }

    /// Ends the measuring and writes the table, to the file that the environment variable
    /// `SD_BENCH_TABLE` names or to `bench.md` in cargo's target folder.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(self) -> std::io::Result<()> {
        self.criterion.final_summary();
        if self.table.is_empty() {
            return Ok(());
        }
        let path = match std::env::var_os(TABLE) {
            Some(path) => PathBuf::from(path),
            None => target_folder()?.join("bench.md"),
        };
        std::fs::write(&path, self.table.to_string())?;
        println!("{}\nwritten to {}", self.table, path.display());
        Ok(())
    }

    /// True where the filter lets `id` through. Criterion decides; this saves opening models.
    fn selects(&self, id: &str) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|filter| filter.is_match(id))
    }

    /// Those of `names` that the filter does not leave out by its first part, where that is a
    /// device's name.
    pub(crate) fn devices_selected<'a>(&self, names: &'a [String]) -> Vec<&'a str> {
        let filter = self.filter.as_ref().map_or("", Regex::as_str);
        let first = filter.split('/').next().unwrap_or_default();
        let all = !names.iter().any(|name| name.contains(first));
        let names = names.iter().map(String::as_str);
        names.filter(|name| all || name.contains(first)).collect()
    }
}

/// The argument that is neither a flag nor a flag's value.
fn filter(arguments: &[String]) -> Option<&str> {
    let mut arguments = arguments.iter().map(String::as_str);
    while let Some(argument) = arguments.next() {
        match argument {
            "--bench" | "--test" | "--list" | "--quick" | "--exact" | "--verbose" | "-v"
            | "--quiet" | "--noplot" | "-n" | "--discard-baseline" => {}
            // All others of criterion's take a value.
            flag if flag.starts_with('-') => {
                if !flag.contains('=') {
                    arguments.next();
                }
            }
            filter => return Some(filter),
        }
    }
    None
}

fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort();
    samples[samples.len() / 2]
}

/// Cargo puts a bench program into `target/release/deps`.
pub(crate) fn target_folder() -> std::io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.ancestors().nth(3);
    Ok(folder.unwrap_or(&program).to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(Into::into).collect()
    }

    #[test]
    fn the_filter_is_the_argument_that_belongs_to_no_flag() {
        assert_eq!(filter(&words("--bench")), None);
        assert_eq!(filter(&words("wgpu --bench")), Some("wgpu"));
        let line = words("--save-baseline old --quick --sample-size=20 flex --bench");
        assert_eq!(filter(&line), Some("flex"));
    }

    #[test]
    fn the_filter_selects_devices_by_its_first_part() {
        let names = words("flex ndarray wgpu:cpu");
        let selected = |filter: Option<&str>| {
            let harness = Harness {
                criterion: Criterion::default(),
                filter: filter.map(|filter| Regex::new(filter).unwrap()),
                measures: false,
                table: Table::default(),
            };
            harness.devices_selected(&names).join(" ")
        };
        assert_eq!(selected(None), "flex ndarray wgpu:cpu");
        assert_eq!(selected(Some("wgpu")), "wgpu:cpu");
        assert_eq!(selected(Some("flex/f32/tiny")), "flex");
        assert_eq!(selected(Some("U-Net")), "flex ndarray wgpu:cpu");
        assert_eq!(
            selected(Some("tiny|flex/f32/large")),
            "flex ndarray wgpu:cpu"
        );
    }

    #[test]
    fn the_median_is_the_middle_one() {
        let samples = [5, 1, 9].map(Duration::from_secs).to_vec();
        assert_eq!(median(samples), Duration::from_secs(5));
    }
}
