//! What was measured, in lines and in a table.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use burn::tensor::{FloatDType, Tensor};
use sd_fixtures::Fixture;
use sd_pipeline::{RgbImage, burn};

/// Pictures of one request on two devices are alike to the eye, and nearly so to the byte.
const PICTURES_ALIKE: f64 = 50.0;

/// What one check measures.
pub(crate) struct Log {
    begin: Instant,
    /// Name, value and whether it is as it should be.
    measured: Vec<(String, f64, bool)>,
    not_here: bool,
    /// To compare with other devices'.
    pub(crate) pictures: Vec<RgbImage>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            measured: Vec::new(),
            not_here: false,
            pictures: Vec::new(),
        }
    }
}

impl Log {
    /// `value` must be `limit` at most; a NaN is not.
    pub(crate) fn at_most(&mut self, what: impl Into<String>, value: f64, limit: f64) {
        self.measured.push((what.into(), value, value <= limit));
    }

    /// `value` must be `limit` at least; a NaN is not.
    pub(crate) fn at_least(&mut self, what: impl Into<String>, value: f64, limit: f64) {
        self.measured.push((what.into(), value, value >= limit));
    }

    /// This check has no meaning on this device or in this precision.
    pub(crate) fn not_here(&mut self) {
        self.not_here = true;
    }
}

#[derive(Default)]
pub(crate) struct Report {
    passed: usize,
    failed: usize,
    skipped: usize,
    /// In f32, by device.
    pictures: BTreeMap<String, Vec<RgbImage>>,
    /// Device and precision, check, the largest difference in it.
    table: Vec<(String, &'static str, f64)>,
    /// Two devices, PSNR between their pictures.
    alike: Vec<(String, f64)>,
}

impl Report {
    pub(crate) fn done(
        &mut self,
        device: &str,
        precision: &str,
        check: &'static str,
        log: Log,
        panicked: bool,
    ) {
        let title = format!("{device} {precision} {check}");
        if log.not_here && !panicked {
            return;
        }
        let mut wrong: Vec<String> = log
            .measured
            .iter()
            .filter(|(_, _, fine)| !fine)
            .map(|(what, value, _)| format!("{what}: {value:.3e}"))
            .collect();
        if panicked {
            wrong.push("it panicked".into());
        } else if log.measured.is_empty() {
            wrong.push("it measured nothing".into());
        }
        if precision == "f32" && !log.pictures.is_empty() {
            self.pictures.insert(device.into(), log.pictures);
        }
        if !wrong.is_empty() {
            return self.failed(&title, &wrong);
        }
        self.passed += 1;
        let values: Vec<String> = (log.measured.iter())
            .map(|(what, value, _)| format!("{what} {value:.1e}"))
            .collect();
        let seconds = log.begin.elapsed().as_secs_f64();
        println!("ok       {title} [{seconds:.1} s]: {}", values.join(", "));
        for (what, value, _) in log.measured {
            let part = ["text", "unet", "vae", "latents", "psnr"].into_iter();
            if let Some(part) = part.into_iter().find(|part| what.starts_with(part)) {
                self.table
                    .push((format!("{device} {precision}"), part, value));
            }
        }
    }

    pub(crate) fn failed(&mut self, title: &str, wrong: &[String]) {
        self.failed += 1;
        println!("FAILED   {title}: {}", wrong.join(", "));
    }

    pub(crate) fn skipped(&mut self, title: &str, why: &str) {
        self.skipped += 1;
        println!("SKIPPED  {title}: {why}");
    }

    /// The pictures of each two devices.
    pub(crate) fn compare_pictures(&mut self) {
        let pictures: Vec<_> = std::mem::take(&mut self.pictures).into_iter().collect();
        for (i, (a, first)) in pictures.iter().enumerate() {
            for (b, second) in &pictures[..i] {
                let title = format!("{b} and {a} draw the same");
                let pairs = first.iter().zip(second).map(|(a, b)| psnr(a, b));
                let psnr = pairs.fold(f64::INFINITY, f64::min);
                self.alike.push((format!("{b}, {a}"), psnr));
                if psnr >= PICTURES_ALIKE {
                    self.passed += 1;
                    println!("ok       {title}: PSNR {psnr:.1} dB");
                } else {
                    self.failed(&title, &[format!("PSNR {psnr:.1} dB")]);
                }
            }
        }
    }

    pub(crate) fn finish(self) -> ExitCode {
        self.print_table();
        let (passed, failed, skipped) = (self.passed, self.failed, self.skipped);
        println!("\n{passed} passed, {failed} failed, {skipped} skipped");
        match failed {
            0 if passed > 0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }

    /// The largest differences in Markdown, as `docs/backends.md` has them.
    fn print_table(&self) {
        let mut rows: Vec<&String> = self.table.iter().map(|(row, ..)| row).collect();
        rows.dedup();
        println!("\n| device | text | unet | vae | latents | picture (PSNR) |");
        println!("|---|---|---|---|---|---|");
        for row in rows {
            let of = |part: &str| {
                let cells = self.table.iter();
                let cells = cells.filter(move |(place, p, _)| place == row && *p == part);
                cells.map(|(_, _, value)| *value).collect::<Vec<_>>()
            };
            let largest = |part: &str| {
                let values = of(part);
                match values.is_empty() {
                    true => "–".into(),
                    false => format!("{:.1e}", values.into_iter().fold(0.0, f64::max)),
                }
            };
            let psnr = of("psnr").into_iter().fold(f64::INFINITY, f64::min);
            println!(
                "| {row} | {} | {} | {} | {} | {psnr:.1} dB |",
                largest("text"),
                largest("unet"),
                largest("vae"),
                largest("latents"),
            );
        }
        println!("\n| devices | PSNR between their pictures |");
        println!("|---|---|");
        for (devices, psnr) in &self.alike {
            println!("| {devices} | {psnr:.1} dB |");
        }
    }
}

/// Peak signal-to-noise ratio in dB; 100 for equal pictures.
pub(crate) fn psnr(a: &RgbImage, b: &RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    psnr_of(
        a.as_raw()
            .iter()
            .zip(b.as_raw())
            .map(|(a, b)| f64::from(*a) - f64::from(*b)),
    )
}

/// As [`psnr`], of the differences of bytes.
pub(crate) fn psnr_of(differences: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = differences.len() as f64;
    let squared = differences.map(|d| d * d).sum::<f64>() / count;
    (20.0 * 255f64.log10() - 10.0 * squared.log10()).min(100.0)
}

/// The largest difference between `found` and the fixture's `key`; infinite where one is NaN.
pub(crate) fn difference<const D: usize>(fixture: &Fixture, key: &str, found: Tensor<D>) -> f64 {
    assert_eq!(found.dims().to_vec(), fixture.shape(key), "{key}");
    let found = found.cast(FloatDType::F32).try_into_vec_as::<f32>();
    largest_difference(&found.expect("the device's values"), &fixture.values(key))
}

/// The largest difference between the elements of two slices; infinite where one is NaN.
pub(crate) fn largest_difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    let differences = pairs.map(|(f, e)| (f64::from(*f) - e).abs());
    differences.fold(0.0, |worst, d| {
        if d.is_nan() {
            f64::INFINITY
        } else {
            worst.max(d)
        }
    })
}
