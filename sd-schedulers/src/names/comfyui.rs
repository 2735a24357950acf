//! ComfyUI.

use super::table::ConfigValue::{Count, Flag, Number, Text};
use super::table::{Frontend, FrontendSchedule, FrontendSolver, Options, schedule, solver};

/// k-diffusion's solvers and later ones, with whole timesteps. `ddpm` is the same step as Euler a's,
/// and `ddim` is Euler's on the schedule of that name.
pub(crate) static COMFYUI: Frontend = Frontend {
    prefixes: &["comfyui", "comfy"],
    options: &[("convention", Text("comfy_ui"))],
    solvers: SOLVERS,
    schedules: SCHEDULES,
    usual: "normal",
    automatic: None,
};

const SA_SOLVER: Options = &[
    ("predictor_order", Count(3)),
    ("corrector_order", Count(4)),
    ("ends_at_sigma_min", Flag(false)),
    ("simple_second_order", Flag(false)),
    ("draws_unused_noise", Flag(false)),
    ("tau_at_end", Flag(true)),
    ("tau_from", Number(199.8)),
    ("tau_to", Number(799.2)),
];

#[rustfmt::skip]
static SOLVERS: &[FrontendSolver] = &[
    solver("euler", "Euler", &[]),
    solver("euler_cfg_pp", "Euler CFG++", &[]),
    solver("euler_ancestral", "Euler a", &[]),
    solver("euler_ancestral_cfg_pp", "Euler a CFG++", &[]),
    solver("heun", "Heun", &[]),
    solver("heunpp2", "Heun++ 2", &[]),
    solver("exp_heun_2_x0", "Exp Heun 2 x0", &[]),
    solver("exp_heun_2_x0_sde", "Exp Heun 2 x0 SDE", &[]),
    solver("dpm_2", "DPM2", &[("discard_penultimate", Flag(true))]),
    solver("dpm_2_ancestral", "DPM2 a", &[("discard_penultimate", Flag(true))]),
    solver("lms", "LMS", &[("lower_order_start", Flag(true)), ("euler_at_final", Flag(true))]),
    solver("dpm_fast", "DPM fast", &[]),
    solver("dpm_adaptive", "DPM adaptive", &[]),
    solver("dpmpp_2s_ancestral", "DPM++ 2S a", &[]),
    solver("dpmpp_2s_ancestral_cfg_pp", "DPM++ 2S a CFG++", &[]),
    solver("dpmpp_sde", "DPM++ SDE", &[]),
    solver("dpmpp_sde_gpu", "DPM++ SDE", &[]),
    solver("dpmpp_2m", "DPM++ 2M", &[]),
    solver("dpmpp_2m_cfg_pp", "DPM++ 2M CFG++", &[]),
    solver("dpmpp_2m_sde", "DPM++ 2M SDE", &[("brownian", Flag(true))]),
    solver("dpmpp_2m_sde_gpu", "DPM++ 2M SDE", &[("brownian", Flag(true))]),
    solver("dpmpp_2m_sde_heun", "DPM++ 2M SDE Heun", &[("brownian", Flag(true))]),
    solver("dpmpp_2m_sde_heun_gpu", "DPM++ 2M SDE Heun", &[("brownian", Flag(true))]),
    solver("dpmpp_3m_sde", "DPM++ 3M SDE", &[]),
    solver("dpmpp_3m_sde_gpu", "DPM++ 3M SDE", &[]),
    solver("ddpm", "Euler a", &[]).bare("DDPM"),
    solver("ipndm", "IPNDM", &[("euler_at_final", Flag(true))]),
    solver("ipndm_v", "IPNDM v", &[("euler_at_final", Flag(true))]),
    solver("deis", "DEIS tab", &[]).bare("DEIS"),
    solver("res_multistep", "Res Multistep", &[]),
    solver("res_multistep_cfg_pp", "Res Multistep CFG++", &[]),
    solver("res_multistep_ancestral", "Res Multistep a", &[]),
    solver("res_multistep_ancestral_cfg_pp", "Res Multistep a CFG++", &[]),
    solver("gradient_estimation", "Gradient Estimation", &[]),
    solver("gradient_estimation_cfg_pp", "Gradient Estimation CFG++", &[]),
    solver("er_sde", "ER-SDE", &[]),
    solver("seeds_2", "SEEDS 2", &[]),
    solver("seeds_3", "SEEDS 3", &[]),
    solver("sa_solver", "SA-Solver", SA_SOLVER),
    solver("sa_solver_pece", "SA-Solver PECE", SA_SOLVER),
    solver("lcm", "LCM Sigmas", &[]).bare("LCM"),
    solver("uni_pc", "UniPC", &[("solver_type", Text("bh1")), ("solver_order", Count(3)), ("final_sigma", Number(0.001)), ("discard_penultimate", Flag(true))]),
    solver("uni_pc_bh2", "UniPC", &[("solver_order", Count(3)), ("final_sigma", Number(0.001)), ("discard_penultimate", Flag(true))]),
    solver("ddim", "Euler", &[]).with("ddim_uniform").bare("DDIM"),
];

static SCHEDULES: &[FrontendSchedule] = &[
    schedule("simple", "Simple", "simple"),
    schedule("sgm_uniform", "SGM Uniform", "sgm_uniform"),
    schedule("karras", "Karras", "karras"),
    schedule("exponential", "Exponential", "exponential"),
    schedule("ddim_uniform", "DDIM Uniform", "ddim_uniform"),
    schedule("beta", "Beta", "beta_timesteps"),
    schedule("normal", "Normal", "normal"),
    schedule("linear_quadratic", "Linear Quadratic", "linear_quadratic"),
    schedule("kl_optimal", "KL Optimal", "kl_optimal"),
];
