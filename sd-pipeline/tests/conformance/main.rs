//! The same checks on every device: text encoder, U-Net, autoencoder and whole generations equal
//! diffusers' on each, in each precision it has.
//!
//! What is compiled in and present is checked; what is not is reported as skipped, with the
//! reason. `SD_CONFORMANCE_DEVICES=flex,wgpu:cpu` names the devices that must be there: only those
//! are checked, and one that is absent is a failure. Words on the command line choose among the
//! checks: `cargo test --test conformance -- wgpu f16`.

mod attention;
mod failures;
mod generation;
mod large_values;
mod memory;
mod networks;
mod report;
mod shared_device;
mod tiling;
mod tolerance;
mod warm_up;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use sd_pipeline::{Device, FloatDType, device};

use report::{Log, Report};

/// Where a check runs.
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) device: Device,
    pub(crate) dtype: FloatDType,
}

impl Place {
    /// Whether the device's memory is the program's own, where running out of it ends the program.
    pub(crate) fn shares_memory(&self) -> bool {
        matches!(self.name.as_str(), "flex" | "ndarray" | "cpu" | "tch")
    }

    /// Whether the backend compiles kernels when they are first used.
    pub(crate) fn compiles(&self) -> bool {
        !matches!(self.name.as_str(), "flex" | "ndarray")
    }
}

type Check = (&'static str, fn(&Place, &mut Log));

const CHECKS: [Check; 13] = [
    ("text encoder", networks::text_encoder),
    ("unet", networks::unet),
    ("vae", networks::vae),
    ("vae in strips", tiling::check),
    ("large values", large_values::check),
    ("many tokens", attention::many_tokens),
    ("generation", generation::check),
    ("warm-up", warm_up::check),
    ("memory", memory::check),
    ("mixed placement", generation::mixed_placement),
    ("shared wgpu device", shared_device::check),
    ("out of memory", failures::out_of_memory),
    ("lost device", failures::lost_device),
];

/// All names of devices, software adapters included: here they are asked for.
const DEVICES: [&str; 12] = [
    "flex",
    "ndarray",
    "wgpu",
    "wgpu:cpu",
    "vulkan",
    "vulkan:cpu",
    "metal",
    "webgpu",
    "cuda",
    "rocm",
    "cpu",
    "tch",
];

const PRECISIONS: [(&str, FloatDType); 3] = [
    ("f32", FloatDType::F32),
    ("f16", FloatDType::F16),
    ("bf16", FloatDType::BF16),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let required = std::env::var("SD_CONFORMANCE_DEVICES").ok();
    let names: Vec<String> = match &required {
        Some(names) => names.split(',').map(|name| name.trim().into()).collect(),
        None => DEVICES.map(Into::into).into(),
    };
    // Some checks make a backend panic on purpose; one line of that is enough.
    std::panic::set_hook(Box::new(|panic| eprintln!("         {panic}")));
    let mut report = Report::default();
    for name in &names {
        match device(name) {
            Ok(device) => check_device(name, &device, &words, &mut report),
            Err(error) if required.is_some() => report.failed(name, &[error.to_string()]),
            Err(error) => report.skipped(name, &error.to_string()),
        }
    }
    report.compare_pictures();
    report.finish()
}

fn check_device(name: &str, device: &Device, words: &[String], report: &mut Report) {
    for (precision, dtype) in PRECISIONS {
        let place = format!("{name} {precision}");
        if !device.supports_dtype(dtype) {
            report.skipped(&place, "the device does not compute in it");
            continue;
        }
        for (check, run) in CHECKS {
            let title = format!("{place} {check}");
            if !words.iter().all(|word| title.contains(word.as_str())) {
                continue;
            }
            let place = Place {
                name: name.into(),
                device: device.clone(),
                dtype,
            };
            let mut log = Log::default();
            let ran = catch_unwind(AssertUnwindSafe(|| run(&place, &mut log)));
            report.done(name, precision, check, log, ran.is_err());
        }
    }
}
