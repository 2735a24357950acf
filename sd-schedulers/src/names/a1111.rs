//! AUTOMATIC1111's web UI.

use super::table::ConfigValue::{Count, Flag, Text};
use super::table::{Frontend, FrontendSchedule, FrontendSolver, schedule, solver};

/// k-diffusion's solvers on k-diffusion's σ. Some leave the last σ before the end out; the DPM++
/// SDE family follows a Brownian path. `Automatic` is each solver's own schedule.
pub(crate) static A1111: Frontend = Frontend {
    prefixes: &["a1111", "webui"],
    options: &[("convention", Text("k_diffusion"))],
    solvers: SOLVERS,
    schedules: SCHEDULES,
    usual: "Uniform",
    automatic: Some("Automatic"),
};

#[rustfmt::skip]
static SOLVERS: &[FrontendSolver] = &[
    solver("DPM++ 2M", "DPM++ 2M", &[]).with("Karras"),
    solver("DPM++ SDE", "DPM++ SDE", &[]).with("Karras"),
    solver("DPM++ 2M SDE", "DPM++ 2M SDE", &[("brownian", Flag(true))]).with("Exponential"),
    solver("DPM++ 2M SDE Heun", "DPM++ 2M SDE Heun", &[("brownian", Flag(true))]).with("Exponential"),
    solver("DPM++ 2S a", "DPM++ 2S a", &[]).with("Karras"),
    solver("DPM++ 3M SDE", "DPM++ 3M SDE", &[("discard_penultimate", Flag(true))]).with("Exponential"),
    solver("Euler a", "Euler a", &[]),
    solver("Euler", "Euler", &[]),
    solver("LMS", "LMS", &[("lower_order_start", Flag(true))]),
    solver("Heun", "Heun", &[]),
    solver("DPM2", "DPM2", &[("discard_penultimate", Flag(true))]).with("Karras"),
    solver("DPM2 a", "DPM2 a", &[("discard_penultimate", Flag(true))]).with("Karras"),
    solver("DPM fast", "DPM fast", &[]),
    solver("DPM adaptive", "DPM adaptive", &[]),
    solver("Restart", "Restart", &[]).with("Karras"),
    solver("DDIM", "DDIM", &[("clip_sample", Flag(false)), ("ends_at_last_timestep", Flag(true))]),
    solver("DDIM CFG++", "DDIM CFG++", &[("clip_sample", Flag(false)), ("ends_at_last_timestep", Flag(true))]),
    solver("PLMS", "PLMS", &[("ends_at_last_timestep", Flag(true))]),
    solver("UniPC", "UniPC", &[("solver_type", Text("bh1")), ("solver_order", Count(3)), ("sigmas", Text("time_uniform"))]),
    solver("LCM", "LCM Sigmas", &[("distilled", Flag(true))]).bare("LCM"),
];

static SCHEDULES: &[FrontendSchedule] = &[
    schedule("Uniform", "Normal", "normal"),
    schedule("Karras", "Karras", "karras"),
    schedule("Exponential", "Exponential", "exponential"),
    schedule("Polyexponential", "Polyexponential", "polyexponential"),
    schedule("SGM Uniform", "SGM Uniform", "sgm_uniform"),
    schedule("KL Optimal", "KL Optimal", "kl_optimal_to_min"),
    schedule(
        "Align Your Steps",
        "Align Your Steps",
        "align_your_steps_stretched",
    ),
    schedule(
        "Align Your Steps XL",
        "Align Your Steps XL",
        "align_your_steps_sdxl_stretched",
    ),
    schedule("Simple", "Simple", "simple"),
    schedule("Normal", "Normal", "normal"),
    schedule("DDIM", "DDIM Uniform", "ddim_uniform"),
    schedule("Beta", "Beta", "beta"),
];
