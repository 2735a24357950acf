//! The sigma schedules' own names.

use super::table::ScheduleRow;

/// A schedule of σ, by the name that configurations know it by.
const fn sigmas(name: &'static str, value: &'static str) -> ScheduleRow {
    ScheduleRow {
        name,
        key: "sigmas",
        value,
    }
}

/// A spacing of timesteps.
const fn spacing(name: &'static str, value: &'static str) -> ScheduleRow {
    ScheduleRow {
        name,
        key: "timestep_spacing",
        value,
    }
}

pub(crate) static SCHEDULES: &[ScheduleRow] = &[
    sigmas("Karras", "karras"),
    sigmas("Exponential", "exponential"),
    sigmas("Polyexponential", "polyexponential"),
    sigmas("Beta", "beta"),
    sigmas("SGM Uniform", "sgm_uniform"),
    sigmas("Simple", "simple"),
    sigmas("Normal", "normal"),
    sigmas("DDIM Uniform", "ddim_uniform"),
    sigmas("KL Optimal", "kl_optimal"),
    sigmas("Align Your Steps", "align_your_steps"),
    sigmas("Align Your Steps XL", "align_your_steps_sdxl"),
    sigmas("Linear Quadratic", "linear_quadratic"),
    sigmas("GITS", "gits"),
    sigmas("Smoothstep", "smoothstep"),
    sigmas("Bong Tangent", "bong_tangent"),
    sigmas("LCM Timesteps", "lcm_timesteps"),
    sigmas("Beta Timesteps", "beta_timesteps"),
    sigmas("Lu Lambdas", "lu_lambdas"),
    spacing("Leading", "leading"),
    spacing("Linspace", "linspace"),
    spacing("Trailing", "trailing"),
];
