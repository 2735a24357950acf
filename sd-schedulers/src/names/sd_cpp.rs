//! stable-diffusion.cpp.

use super::table::ConfigValue::{Count, Flag, Text};
use super::table::{Frontend, FrontendSchedule, FrontendSolver, schedule, solver};

/// k-diffusion's solvers and later ones, with k-diffusion's σ. `ddim_trailing` is Euler's step.
/// `lms` is k-diffusion's, without the repeated slope in its third order's sum.
pub(crate) static SD_CPP: Frontend = Frontend {
    prefixes: &["sd.cpp", "sdcpp", "stable-diffusion.cpp"],
    options: &[("convention", Text("k_diffusion"))],
    solvers: SOLVERS,
    schedules: SCHEDULES,
    usual: "discrete",
    automatic: None,
};

#[rustfmt::skip]
static SOLVERS: &[FrontendSolver] = &[
    solver("euler", "Euler", &[]),
    solver("euler_a", "Euler a", &[]),
    solver("heun", "Heun", &[]),
    solver("dpm2", "DPM2", &[]),
    solver("dpm++2s_a", "DPM++ 2S a", &[]),
    solver("dpm++2m", "DPM++ 2M", &[]),
    solver("dpm++2mv2", "DPM++ 2M v2", &[]),
    solver("ipndm", "IPNDM", &[]),
    solver("ipndm_v", "IPNDM v", &[("weights", Text("second_uneven"))]),
    solver("lcm", "LCM Sigmas", &[]).with("lcm").bare("LCM"),
    solver("ddim_trailing", "Euler", &[]).with("simple").bare("DDIM Trailing"),
    solver("tcd", "TCD", &[("eta", Count(0))]),
    solver("res_multistep", "Res Multistep", &[]),
    solver("res_2s", "RES 2S", &[]),
    solver("er_sde", "ER-SDE", &[]),
    solver("euler_cfg_pp", "Euler CFG++", &[]),
    solver("euler_a_cfg_pp", "Euler a CFG++", &[]),
    solver("euler_ge", "Gradient Estimation", &[]),
    solver("dpm++2m_sde", "DPM++ 2M SDE", &[]),
    solver("dpm++2m_sde_bt", "DPM++ 2M SDE", &[("brownian", Flag(true))]),
    solver("lms", "LMS", &[("lower_order_start", Flag(true))]),
];

static SCHEDULES: &[FrontendSchedule] = &[
    schedule("discrete", "Normal", "normal"),
    schedule("karras", "Karras", "karras"),
    schedule("exponential", "Exponential", "exponential"),
    schedule("ays", "Align Your Steps", "align_your_steps"),
    schedule("gits", "GITS", "gits"),
    schedule("sgm_uniform", "SGM Uniform", "sgm_uniform"),
    schedule("simple", "Simple", "simple"),
    schedule("smoothstep", "Smoothstep", "smoothstep"),
    schedule("kl_optimal", "KL Optimal", "kl_optimal"),
    schedule("lcm", "LCM Timesteps", "lcm_timesteps"),
    schedule("bong_tangent", "Bong Tangent", "bong_tangent"),
    schedule("beta", "Beta", "beta_timesteps"),
];
